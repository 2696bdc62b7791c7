"""What columns hold, and which of them a job may use."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.config.data_section import DataConfig
from dnnjob.data.measurement import measure_sample
from dnnjob.data.raw_columns import Texts
from dnnjob.data.schema import (
    Column,
    ColumnData,
    check_features,
    check_names,
    check_target,
    listed,
    make_column,
    make_text_column,
)
from dnnjob.data.schema_merge import join_columns
from dnnjob.data.sources import read_all
from dnnjob.errors import DataError, ExitCode
from tests.data.opened import hold, open_table


def write(folder: Path, text: str) -> str:
    path = folder / "table.csv"
    path.write_text(text)
    return str(path)


def columns_of(source: str) -> dict[str, Column]:
    return {name: data.column for name, data in read_all(source).items()}


def open_text(folder: Path, text: str, features: tuple[str, ...] | None = None) -> None:
    open_table(DataConfig(source=write(folder, text), target="y", features=features))


# What a column holds


def test_a_column_of_several_files_adds_up() -> None:
    parts = [make_column("c", "boolean", np.array([0.0, 1.0]))]
    parts.append(make_column("c", "numeric", np.array([np.nan, -3.0, np.inf])))
    joined = join_columns(parts, source="s", files=["a", "b"])
    assert joined.column == Column(
        "c", "numeric", num_missing=1, num_infinite=1, minimum=-3.0, maximum=1.0
    )
    np.testing.assert_array_equal(joined.numbers, [0, 1, np.nan, -3, np.inf])


def test_a_file_of_gaps_takes_the_kind_of_the_others() -> None:
    gaps = make_column("c", "numeric", np.full(2, np.nan))
    texts = make_text_column("c", "text", Texts.of(["x", "y"]))
    joined = join_columns([gaps, texts], source="s", files=["a", "b"])
    assert joined.column == Column(
        "c", "text", num_missing=2, num_text=2, num_values=2, example="x"
    )


def test_files_of_gaps_alone_stay_gaps() -> None:
    parts = [make_column("c", "numeric", np.full(2, np.nan)) for _ in range(2)]
    joined = join_columns(parts, source="s", files=["a", "b"])
    assert joined.column == Column("c", "numeric", num_missing=4)


def test_files_that_disagree_on_a_columns_kind_are_named() -> None:
    parts = [
        make_column("c", "numeric", np.ones(2)),
        make_text_column("c", "text", Texts.of(["x", "1"])),
    ]
    with pytest.raises(DataError, match=r"'c' is numeric in a\.csv, text in b\.csv"):
        join_columns(parts, source="s", files=["a.csv", "b.csv"])


def test_asking_for_the_numbers_of_text_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="'c' were not read as numbers"):
        _ = make_text_column("c", "text", Texts.of(["x"])).numbers


# Names


def test_features_are_all_other_columns_in_the_tables_order() -> None:
    data = DataConfig(source="s", target="b")
    assert check_names(data, ["c", "b", "a"]) == ("c", "a")


def test_named_features_keep_the_jobs_order() -> None:
    data = DataConfig(source="s", target="b", features=("a", "c"))
    assert check_names(data, ["c", "b", "a", "d"]) == ("a", "c")


def test_a_missing_target_is_answered_with_the_nearest_and_all_columns() -> None:
    with pytest.raises(DataError) as caught:
        check_names(DataConfig(source="t.csv", target="medv"), ["CRIM", "MEDV"])
    assert str(caught.value) == (
        "t.csv has no column 'medv' (did you mean 'MEDV'?). It has: CRIM, MEDV. "
        "Set data.target, or point data.source elsewhere."
    )
    assert caught.value.exit_code == ExitCode.DATA


def test_a_long_list_of_columns_is_abbreviated() -> None:
    with pytest.raises(DataError, match=r"c18, c19 and 80 more\. Set data"):
        check_names(DataConfig(source="s", target="zzz"), [f"c{n}" for n in range(100)])
    assert listed(["a", "b"]) == "a, b"


def test_a_name_with_a_space_around_it_is_found_as_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean ' y'"):
        check_names(DataConfig(source="s", target="y"), ["a", " y"])


def test_missing_features_are_all_named() -> None:
    data = DataConfig(source="s", target="y", features=("a", "bb", "zzz"))
    with pytest.raises(DataError, match=r"no column 'bb' \(did you mean 'b'\?\), 'zzz'\. It has"):
        check_names(data, ["a", "b", "y"])


def test_a_file_without_a_header_is_recognized() -> None:
    with pytest.raises(DataError, match="first line holds only numbers: add a line"):
        check_names(DataConfig(source="s", target="y"), ["0.00632", "18", "2.31"])


def test_the_line_that_spreadsheets_put_before_a_header_is_named() -> None:
    with pytest.raises(DataError, match="tells spreadsheets the delimiter: remove it"):
        check_names(DataConfig(source="s", target="y"), ["sep=", "Unnamed: 1"])


def test_a_table_of_the_target_alone_is_refused() -> None:
    with pytest.raises(DataError, match="needs a feature beside its target"):
        check_names(DataConfig(source="s", target="y"), ["y"])


# The target


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("x,1,2", "it is text (1 of 3 rows hold no number, such as 'x')"),
        ("2024-01-01,2024-01-02,2024-01-03", "it is datetime (3 of 3 rows"),
        ("1,,", "1 of 3 rows have one"),
        (",,", "it is missing in all 3 rows"),
        ("1,inf,-inf", "it is infinite in 2 of 3 rows"),
        ("1,1e39,2", "it is beyond the range of float32 (3.4e38) in 1 of 3 rows"),
        ("5,5,5", "all 3 rows are 5."),
    ],
)
def test_an_unusable_target_is_refused_with_the_reason(
    tmp_path: Path, values: str, told: str
) -> None:
    rows = "".join(f"{n},{value}\n" for n, value in enumerate(values.split(",")))
    with pytest.raises(DataError) as caught:
        open_text(tmp_path, f"a,y\n{rows}")
    assert told in str(caught.value)
    assert "'y'" in str(caught.value)
    assert "Set data.target" in str(caught.value)


def test_a_boolean_target_is_zero_and_one(tmp_path: Path) -> None:
    source = write(tmp_path, "a,y\n1,True\n2,False\n")
    np.testing.assert_array_equal(open_table(DataConfig(source=source, target="y")).y, [1, 0])


def test_the_logarithm_of_a_target_needs_targets_above_minus_one(tmp_path: Path) -> None:
    source = write(tmp_path, "a,y\n1,-1\n2,5\n")
    with pytest.raises(DataError, match=r"above -1, but 'y' in .* goes down to -1\. Set"):
        open_table(DataConfig(source=source, target="y", target_transform="log1p"))


def test_a_good_target_passes() -> None:
    check_target("s", make_column("y", "numeric", np.array([1.0, 2.0])))


# The features


def test_every_unusable_feature_is_named_with_its_count(tmp_path: Path) -> None:
    lists = pa.array([[1], [2], None])
    table = pa.table(
        {
            "good": [1.0, None, 3.0],
            "text": ["red", "?", "4"],
            "wild": [float("inf"), 2.0, 3.0],
            "huge": [1e39, -1e39, 1.0],
            "lists": lists,
            "y": [1, 2, 3],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError) as caught:
        open_table(DataConfig(source=str(tmp_path / "t.parquet"), target="y"))
    message = str(caught.value)
    for told in (
        "'wild' is infinite in 1 of 3 rows",
        "'huge' is beyond the range of float32 (3.4e38) in 2 of 3 rows",
        "'lists' is neither numbers nor texts (2 of 3 rows, such as '[1]')",
        'Set data.features to others: ["good", "text"].',
    ):
        assert told in message


def test_texts_gaps_booleans_and_dates_are_features(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        "text,gap,flag,date,y\nred,1,True,2024-01-01,1\n?,,False,,2\n4,4,True,2024-01-03 12:30,3\n",
    )
    table = open_table(DataConfig(source=source, target="y"))
    kinds = ["text", "numeric", "boolean", "datetime"]
    assert list(table.kinds.values()) == kinds
    assert [column.num_missing for column in table.columns] == [1, 1, 0, 1, 0]


def test_unusable_columns_that_are_no_features_do_not_matter(tmp_path: Path) -> None:
    text = "a,wild,gap,y\n1,inf,,1\n2,2,2,2\n"
    source = write(tmp_path, text)
    table = open_table(DataConfig(source=source, target="y", features=("a",)))
    assert [column.num_infinite for column in table.columns] == [0, 1, 0, 0]
    assert table.columns[2].num_missing == 1


def test_many_problems_and_many_usable_features_are_abbreviated() -> None:
    bad = [make_column(f"t{n}", "numeric", np.array([np.inf])) for n in range(50)]
    good = [make_column(f"g{n}", "numeric", np.array([1.0])) for n in range(30)]
    with pytest.raises(DataError, match=r"and 30 more\. .* 30 are usable, and `dnnjob init`"):
        check_features("s", [*bad, *good])


def test_a_table_without_any_usable_feature_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of the features is usable"):
        open_text(tmp_path, "a,y\ninf,1\n2,2\n")


# Weights


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("1,-2,3", "goes down to -2"),
        ("0,0,0", "is zero throughout"),
        ("1,,3", "has 1 missing and 0 infinite"),
        ("1,inf,3", "has 0 missing and 1 infinite"),
        ("1,x,3", "is text"),
    ],
)
def test_unusable_weights_are_refused(tmp_path: Path, values: str, told: str) -> None:
    rows = "".join(f"{n},{value},{n}\n" for n, value in enumerate(values.split(",")))
    data = DataConfig(source=write(tmp_path, f"a,w,y\n{rows}"), target="y", weight_column="w")
    with pytest.raises(
        DataError, match=rf"Weights must be .* 'w' in .* {told}( values)?\. Set data\.weight"
    ):
        open_table(data)


def test_weights_and_ids_are_no_features(tmp_path: Path) -> None:
    source = write(tmp_path, "id,a,w,y\nx,1,0.5,1\nz,2,2,2\n")
    data = DataConfig(source=source, target="y", weight_column="w", id_columns=("id",))
    table = open_table(data)
    assert table.features == ("a",)
    np.testing.assert_array_equal(table.weights, [0.5, 2.0])
    assert table.ids["id"].to_pylist() == ["x", "z"]


# Rows


@pytest.mark.parametrize(("rows", "count"), [("1,2\n", 1)])
def test_one_row_cannot_be_split(tmp_path: Path, rows: str, count: int) -> None:
    with pytest.raises(DataError, match=rf"at least 2 rows, but .* has {count}\."):
        open_text(tmp_path, f"a,y\n{rows}")


# Warnings


def check(data: DataConfig, *columns: ColumnData) -> tuple[str, ...]:
    return measure_sample(hold(data, columns)).warnings


def warnings_for(values: list[float], y: list[float] | None = None) -> tuple[str, ...]:
    feature = make_column("a", "numeric", np.array(values))
    target = make_column("y", "numeric", np.array(y or [7.0, *range(1, len(values))]))
    return check(DataConfig(source="s.csv", target="y"), feature, target)


def test_a_constant_feature_warns() -> None:
    assert warnings_for([3.0, 3.0]) == ("constant features tell nothing: a.",)


@pytest.mark.parametrize(
    "values",
    [
        [1e6, 1e6 + 1, 1e6 + 2],
        [-1e9, -1e9 + 3],
        [20240101.0, 20240102.0],
        [3e38, 3e38 * (1 + 1e-6)],
        [1e-50, 2e-50],
    ],
)
def test_a_spread_that_float32_cannot_hold_warns(values: list[float]) -> None:
    (warning,) = warnings_for(values)
    assert "float32 cannot hold the differences within a" in warning


@pytest.mark.parametrize(
    "values", [[1e6, 1e6 + 100], [1e-30, 2e-30], [-3e38, 3e38], [0.0, 1.0], [2000.0, 2024.0]]
)
def test_a_spread_that_float32_holds_does_not_warn(values: list[float]) -> None:
    assert warnings_for(values) == ()


def test_a_narrow_target_warns_too() -> None:
    (warning,) = warnings_for([1.0, 2.0], y=[1e8, 1e8 + 1])
    assert "within y" in warning


def test_rows_without_a_target_warn() -> None:
    assert warnings_for([5.0, 2.0, 3.0], y=[1.0, 2.0, np.nan]) == (
        "y is missing in 1 of 3 rows: they are predicted, not trained on.",
    )


def test_a_feature_that_equals_the_target_warns_of_a_leak() -> None:
    (_, leak) = warnings_for([1.0, 2.0, np.nan, 4.0], y=[1.0, 2.0, 3.0, np.nan])
    assert "a equals the target y in every row: a leak" in leak
    assert warnings_for([1.0, 2.0, 3.5], y=[1.0, 2.0, 3.0]) == ()


def test_features_without_variety_warn() -> None:
    empty = make_column("e", "numeric", np.full(2, np.nan))
    same = make_text_column("s", "text", Texts.of(["x", None]))
    target = make_column("y", "numeric", np.array([1.0, 2.0]))
    data = DataConfig(source="s.csv", target="y", min_category_rows=1)
    assert check(data, empty, same, target) == (
        "features without any value tell nothing: e.",
        "constant features tell nothing: s.",
    )


def warnings_of_texts(texts: list[str | None]) -> tuple[str, ...]:
    feature = make_text_column("t", "text", Texts.of(texts))
    target = make_column("y", "numeric", np.arange(float(len(texts))))
    return check(DataConfig(source="s.csv", target="y"), feature, target)


def test_texts_of_which_all_are_rare_warn() -> None:
    (warning,) = warnings_of_texts(["a", "b", "b", "b", "b", None])
    assert warning.startswith("every text of t is in fewer than 5 rows, which tells nothing.")
    assert warnings_of_texts(["a", "b", "b", "b", "b", "b"]) == ()


def test_numbers_with_a_few_words_among_them_warn() -> None:
    (warning,) = warnings_of_texts([*(str(n % 3) for n in range(20)), "n.d."])
    assert "t is taken for text, since 1 of 21 rows hold no number, such as 'n.d.'." in warning


def test_a_feature_without_a_name_warns(tmp_path: Path) -> None:
    source = write(tmp_path, ",a,y\n0,1,2\n1,5,3\n")
    table = open_table(DataConfig(source=source, target="y"))
    assert table.features == ("Unnamed: 0", "a")
    assert "leaves columns without a name: Unnamed: 0" in table.warnings[0]
