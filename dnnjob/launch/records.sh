# The records of the runs of this task, as far as a batch script reads and changes them: with POSIX
# tools alone, since the host may have nothing else.

# The last word to `dnnjob status`: the exit code, whether the job goes on, and why it ended where
# its task had no time to say so.
dnnjob_note() {
    # A node that was cut off comes back when a later start has had its say.
    dnnjob_before=$(sed -n 's/.*"restarts": \([0-9]*\).*/\1/p' "$dnnjob_ended" 2>/dev/null)
    [ "${dnnjob_before:-0}" -le "$dnnjob_restarts" ] || return 0
    printf '{"exit_code": %d, "requeue": "%s", "reason": %s, "restarts": %d, "ended_at": "%s"}\n' \
        "$dnnjob_rc" "$1" "${2:+\"}${2:-null}${2:+\"}" "$dnnjob_restarts" \
        "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
        >"$dnnjob_ended.tmp" && mv "$dnnjob_ended.tmp" "$dnnjob_ended"
}

# A line for each run of this task that this start may speak for: its state, how many attempts this
# job made of it, in which start it made the last (-1: in none), and its folder. Another job may
# have been sent to go on with a run, and a later start may be at work. CREATED is also what waits
# for its first attempt by this job. Keys of the records stand one blank from the margin, those of
# an attempt three.
dnnjob_look() {
    [ -f "$dnnjob_runs" ] || return 0
    DNNJOB_FOLDER=$dnnjob_folder awk -v job="$dnnjob_job" -v restarts="$dnnjob_restarts" '
        function value(line) {
            sub(/^[^:]*: /, "", line); sub(/,$/, "", line); gsub(/"/, "", line)
            return line
        }
        function moment(line) { line = value(line); sub(/Z$/, "", line); return line "" }
        {
            file = ENVIRON["DNNJOB_FOLDER"] "/" $0 "/submission.json"
            sent_to = sent = ""
            while ((getline line < file) > 0)
                if (line ~ /^ "job_id": /) sent_to = value(line)
                else if (line ~ /^ "submitted_at": /) sent = moment(line)
            close(file)
            file = ENVIRON["DNNJOB_FOLDER"] "/" $0 "/status.json"
            state = told = by = ""; start = -1; count = 0
            while ((getline line < file) > 0)
                if (line ~ /^ "state": /) state = value(line)
                else if (line ~ /^ "updated_at": /) told = moment(line)
                else if (line ~ /^   "slurm_job_id": /) { by = value(line); count += by == job }
                else if (line ~ /^   "slurm_restarts": /) start = value(line) + 0
            close(file)
            if (sent_to != job "" || state == "") next
            if (by == job "") { if (start <= restarts + 0) print state, count, start, $0 }
            else if (state == "CREATED" || (state !~ /^(RUNNING|COMPLETED)$/ && told < sent))
                print "CREATED", count, -1, $0
        }
    ' "$dnnjob_runs"
}

# Whether one of them is in the state $1, or in one of several as `A|B`.
dnnjob_any() {
    dnnjob_look | grep -qE "^($1) "
}

# Gives those in state $1, made more than $5 attempts of, the state $2, the reason $3 (empty: as it
# is) and the error $4, and ends their attempt: their chief has ended and cannot.
dnnjob_mark() {
    # Neither JSON nor awk shall find its own signs in a path or in Slurm's words.
    DNNJOB_ERROR=$(printf %s "$4" | tr '\n' ' ' | tr -d '\\"')
    export DNNJOB_ERROR
    dnnjob_look | while read -r dnnjob_state dnnjob_count _ dnnjob_run; do
        [ "$dnnjob_state" = "$1" ] && [ "$dnnjob_count" -gt "${5:--1}" ] || continue
        dnnjob_run=$dnnjob_folder/$dnnjob_run
        awk -v state="$2" -v reason="$3" -v job="$dnnjob_job" \
            -v now="$(date -u +%Y-%m-%dT%H:%M:%S)" '
            function put(place, text) {
                comma = line[place] ~ /,$/ ? "," : ""
                sub(/: .*/, "", line[place])
                line[place] = line[place] ": \"" text "\"" comma
            }
            FILENAME == ARGV[1] {
                # The clock of this node may be behind that of the submission.
                if (/^ "submitted_at": /) { split($0, part, /"|Z"/); if (part[4] > now) now = part[4] }
                next
            }
            { line[++count] = $0 }
            /^ "state": / { put(count, state) }
            /^ "reason": / && reason { put(count, reason) }
            /^ "error": / { put(count, ENVIRON["DNNJOB_ERROR"]) }
            /^ "updated_at": / { put(count, now "Z") }
            /^   "slurm_job_id": / { is_ours = index($0, "\"" job "\"") }
            /^   "ended_at": / { ended = count }
            /^   "reason": / { why = count }
            END {
                if (is_ours && line[ended] ~ /null/) put(ended, now "Z")
                if (is_ours && reason) put(why, reason)
                for (place = 1; place <= count; place++) print line[place]
            }
        ' "$dnnjob_run/submission.json" "$dnnjob_run/status.json" >"$dnnjob_run/status.json.tmp" \
            && mv "$dnnjob_run/status.json.tmp" "$dnnjob_run/status.json"
    done
}
