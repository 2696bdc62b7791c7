"""The course's script: the housing table read, trained with Keras `fit`, tested and drawn.

python course.py housing.csv FOLDER
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib as mpl
import pandas as pd
import seaborn as sns
from keras.layers import Dense
from keras.models import Sequential
from matplotlib import pyplot as plt
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import train_test_split

mpl.use("Agg")
table, folder = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(0)

data = pd.read_csv(table)
data = (data - data.mean()) / data.std(ddof=0)
target = data.columns[-1]

plt.figure(figsize=(12, 6))
sns.boxplot(data=data)
plt.savefig(folder / "boxplot.png")
plt.close()

x_train, x_test, y_train, y_test = train_test_split(
    data.drop(columns=target), data[target], test_size=0.3, random_state=0
)

model = Sequential(
    [
        keras.Input((x_train.shape[1],)),
        Dense(200, activation="relu"),
        Dense(1000, activation="relu"),
        Dense(1),
    ]
)
model.compile(optimizer="sgd", loss="mse")
model.summary()
history = model.fit(x_train, y_train, epochs=500, batch_size=64, verbose=2)
print("test loss", model.evaluate(x_test, y_test, verbose=0))

predicted = model.predict(x_test, verbose=0).ravel()
print("test MSE", mean_squared_error(y_test, predicted))

plt.figure()
sns.regplot(x=y_test, y=predicted)
plt.xlabel("Actual Values")
plt.ylabel("Predicted Values")
plt.savefig(folder / "regplot.png")
