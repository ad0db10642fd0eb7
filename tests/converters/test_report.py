"""Reports about files: the numbers, the two formats, and the page in a browser."""

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from bnnkeras import converters, layers, models
from bnnkeras.converters.reporting import Latency, Report
from bnnkeras.quantizers import DAB

BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
NASTY = "<script>document.title='run'</script> \"onload=alert(1) & 'x'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds what small_models.py made, once for all test files."""
    folder = tmp_path_factory.getbasetemp() / "small_models"
    if not folder.exists():
        folder.mkdir()
        script = Path(__file__).with_name("small_models.py")
        subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def model(randomized) -> keras.Model:
    inputs = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Conv2D(32, 3, strides=2, padding="same", name="stem")(inputs)
    x = layers.QuantConv2D(40, 3, padding="same", use_bias=False, name="first", **BINARY)(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = layers.QuantConv2D(8, 3, groups=2, use_bias=False, name="grouped", **BINARY)(x)
    x = layers.QuantDepthwiseConv2D(
        3, input_quantizer="ste_sign", depthwise_quantizer="ste_sign", name="depthwise"
    )(x)
    x = keras.layers.Flatten()(x)
    x = layers.QuantDense(24, use_bias=False, name="hidden", **BINARY)(x)
    outputs = keras.layers.Dense(10, name="classifier")(x)
    return randomized(keras.Model(inputs, outputs, name="small"))


@pytest.fixture(scope="module")
def conversion(model, tmp_path_factory) -> converters.Conversion:
    return converters.convert(model, tmp_path_factory.mktemp("report") / "small.tflite")


@pytest.fixture
def report(conversion) -> Report:
    return conversion.report


def test_macs_are_those_of_the_profile(model, report):
    profile = models.ModelProfile(model)
    work = {entry.name: entry for entry in profile.layer_profiles}
    for row_layer in ("stem", "first", "grouped", "depthwise", "hidden", "classifier"):
        macs = sum(row.macs for row in report.rows if row.layer == row_layer)
        assert macs == work[row_layer].op_count("mac"), row_layer
    binary = {row.layer for row in report.rows if row.precision == "binary"}
    assert binary == {"first", "grouped", "hidden"}
    assert report.binary_macs == sum(work[name].op_count("mac") for name in binary)
    assert report.binary_share == report.binary_macs / (report.binary_macs + report.other_macs)


def test_weights_are_counted_once_and_fit_into_the_file(report):
    sizes = {row.layer: 0 for row in report.rows}
    for row in report.rows:
        sizes[row.layer] += row.weight_bytes
    # 32 channels are one word; multiplier and bias of 4 bytes for each filter.
    assert sizes["first"] == 40 * 9 * 4 + 40 * 8
    assert sizes["classifier"] == 24 * 10 * 4 + 10 * 4
    assert sum(sizes.values()) == report.weight_bytes < report.file_bytes


def test_activations_are_what_lives_while_an_operator_runs(folder):
    report = converters.inspect(folder / "chain.tflite")
    image, bits, hidden, output = 8 * 8 * 64 * 4, 8 * 8 * 2 * 4, 8 * 8 * 48 * 4, 8 * 8 * 4 * 4
    lives = [row.live_bytes for row in report.rows]
    assert lives == [image + bits, bits + hidden, hidden + bits, bits + output]
    assert report.activation_bytes == image + bits


def test_what_the_user_built_and_what_became_of_it(report, conversion):
    assert report.binary_layers == ("first", "grouped", "hidden")
    assert report.layers_in_bits == report.binary_layers
    assert report.layers_in_float == report.layers_partly_in_bits == ()
    assert [*report.float_reasons] == ["depthwise"]
    assert report.verification is not None and report.verification["passed"]
    assert report.sealed and report.versions["keras"] == keras.__version__
    assert [item.name for item in report.inputs] == ["image"]
    text = str(report)
    assert "3 of 3 in 1 bit" in text and "in float: depthwise: " in text
    assert "yes (probe difference 0)" in text
    assert converters.inspect(conversion.path) == dataclasses.replace(report, verification=None)


def test_what_the_probe_left_out_is_named(randomized):
    image = keras.Input((6, 6, 8))
    x = layers.QuantConv2D(
        4, 3, name="of_data", input_quantizer=DAB(per_layer=True), kernel_quantizer="ste_sign"
    )(image)
    x = keras.layers.Softmax(name="softmax")(x)
    x = layers.QuantConv2D(4, 3, name="after_softmax", **BINARY)(x)
    made = converters.convert(randomized(keras.Model(image, x)))
    assert "softmax" in made.verification.probe_cuts
    assert "of_data" in made.verification.probe_replaced
    text = str(made.report)
    assert f"probe: softmax: left out: {made.verification.probe_cuts['softmax']}" in text
    assert "probe: of_data: another quantizer: " in text


def test_a_binary_layer_in_float_is_never_counted_as_binary(report):
    # As if LCE had left one layer in float, and one group of another.
    grouped = [row.index for row in report.rows if row.layer == "grouped" and row.macs]
    assert len(grouped) == 2
    left = {grouped[0], *(row.index for row in report.rows if row.layer == "first")}
    rows = tuple(
        dataclasses.replace(row, operator="CONV_2D", precision="float32")
        if row.index in left and row.macs
        else row
        for row in report.rows
    )
    changed = dataclasses.replace(report, rows=rows)
    assert changed.layers_in_bits == ("hidden",)
    assert changed.layers_in_float == ("first",)
    assert changed.layers_partly_in_bits == ("grouped",)
    assert changed.binary_macs < report.binary_macs
    text = str(changed)
    assert "1 of 3 in 1 bit, 1 partly" in text
    assert "in float: first: not an LceBconv2d" in text
    assert "partly in float: grouped: CONV_2D float32" in text


def test_files_of_others_are_described_by_what_is_in_them(folder):
    report = converters.inspect((folder / "chain.tflite").read_bytes())
    assert report.binary_layers is None and not report.sealed and report.verification is None
    assert "2 LceBconv2d (the file does not tell" in str(report)
    assert [row.operator for row in report.rows] == ["LceQuantize", "LceBconv2d"] * 2
    real = converters.inspect(folder / "float.tflite")
    assert real.binary_macs == 0 and real.binary_share == 0.0
    assert real.other_macs == 6 * 6 * 8 * 3 * 3 * 64
    assert [row.precision for row in real.rows] == ["float32"]


@pytest.mark.slow
def test_smaller_kernels_are_named(folder):
    # float16 kernels behind DEQUANTIZE, and int8 ones: as TensorFlow Lite's converter writes them.
    inputs = keras.Input((8, 8, 16))
    x = keras.layers.Conv2D(32, 3)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(64)(keras.layers.Flatten()(x)))
    code = (
        "import sys, keras, tensorflow as tf\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "folder = sys.argv[2]\n"
        "signature = [keras.InputSpec(shape=(1, 8, 8, 16), dtype='float32')]\n"
        "model.export(folder + '/saved', input_signature=signature, verbose=False)\n"
        "for name, types in (('float16', [tf.float16]), ('int8', [])):\n"
        "    converter = tf.lite.TFLiteConverter.from_saved_model(folder + '/saved')\n"
        "    converter.optimizations = [tf.lite.Optimize.DEFAULT]\n"
        "    converter.target_spec.supported_types = types\n"
        "    open(folder + '/' + name + '.tflite', 'wb').write(converter.convert())\n"
    )
    path = folder / "quantized"
    path.mkdir()
    model.save(path / "model.keras")
    subprocess.run([sys.executable, "-c", code, path / "model.keras", path], check=True)
    half, small = (converters.inspect(path / f"{name}.tflite") for name in ("float16", "int8"))
    assert {row.precision for row in half.rows if row.macs} == {"float16 x float32"}
    assert {row.precision for row in small.rows if row.macs} == {"int8 x float32"}
    # The bytes of a DEQUANTIZE's constant count where it is read.
    assert all(row.weight_bytes == 0 for row in half.rows if row.operator == "DEQUANTIZE")
    kernel_values = 3 * 3 * 16 * 32 + 6 * 6 * 32 * 64
    assert 0 <= half.weight_bytes - 2 * kernel_values < 1000
    assert 0 <= small.weight_bytes - kernel_values < 1000
    assert small.binary_macs == half.binary_macs == 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_files_are_refused(conversion, damage):
    data = conversion.flatbuffer
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    else:
        data = b""
    with pytest.raises(ValueError, match="Received"):
        converters.inspect(data)


def test_wrong_types_and_missing_files_are_named(tmp_path):
    with pytest.raises(TypeError, match="`flatbuffer` must be .* Received: int"):
        converters.inspect(3)
    with pytest.raises(FileNotFoundError):
        converters.inspect(tmp_path / "none.tflite")


def _full(report: Report) -> Report:
    """The report with everything that it can hold."""
    latency = Latency(
        "indirect", 2, "phone <1>", 100, 1.5, (1.4, 1.5), 1.4, 1.7, 2.5, 3_000_000, 0.97
    )
    other = Latency("default", 1, "phone", 10, 4.25)
    rows = tuple(dataclasses.replace(row, latency_ms=0.01 * row.index) for row in report.rows)
    cost = {"mode": "int8", "float32_bytes": 20_000, "samples": 8, "measured_on": "noise"}
    cost |= {"argmax_agreement": 0.875, "largest_difference": 0.5, "largest_output": 4.0}
    return dataclasses.replace(
        report,
        rows=rows,
        latencies=(latency, other),
        refusals={"reference": "odd <channels>"},
        quantization=cost,
    )


def test_what_smaller_floats_cost_is_in_the_report(model):
    conversion = converters.convert(model, quantize="float16", verify=False)
    report = conversion.report
    assert report.quantization is not None and conversion.quantization is not None
    assert report.quantization["mode"] == "float16"
    assert report.quantization["argmax_agreement"] == conversion.quantization.argmax_agreement
    assert "smaller floats  float16: " in str(report)
    assert report.metadata["quantize"]
    assert report.layers_in_bits == report.binary_layers


def test_json_comes_back_the_same(report, tmp_path):
    for number, original in enumerate((report, _full(report))):
        path = tmp_path / f"{number}.json"
        original.save(path)
        assert Report.load(path) == original
        values = json.loads(path.read_text())
        assert values["totals"]["binary_macs"] == original.binary_macs
        assert values["totals"]["layers_in_bits"] == [*original.layers_in_bits]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "1.json"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"format": "other"}', '{"format": "bnnkeras report 1"}', "null"]
)
def test_what_is_no_report_is_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="`path` must name a report .*Received: "):
        Report.load(path)


def test_only_two_endings(report, tmp_path):
    with pytest.raises(ValueError, match=r"must end in .json or .html. Received: '.*x.txt'"):
        report.save(tmp_path / "x.txt")
    assert list(tmp_path.iterdir()) == []


class _Tags(html.parser.HTMLParser):
    """Collects tags, their attributes, and the text of cells."""

    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text.append(data)


def _nasty(report: Report) -> Report:
    """The report with names that want to be more than text."""
    rows = tuple(
        dataclasses.replace(row, layer=f"{row.layer}{NASTY}", operator=f"{row.operator}{NASTY}")
        for row in report.rows
    )
    return dataclasses.replace(
        _full(report),
        file=NASTY,
        rows=rows,
        binary_layers=(f"first{NASTY}",),
        float_reasons={NASTY: NASTY},
        notes={NASTY: NASTY},
        versions={NASTY: NASTY},
        metadata={"class_names": [NASTY], "preprocessing": {NASTY: NASTY}},
        verification={"passed": False, "problems": [NASTY], "kernels": {NASTY: {NASTY: NASTY}}},
    )


def test_names_stay_text_on_the_page(report, tmp_path):
    _nasty(report).save(tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    tags = _Tags()
    tags.feed(page)
    assert "script" not in tags.tags and "onload" not in tags.attributes
    assert any(NASTY in text for text in tags.text)
    assert "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", page)
    assert "not verified" in page


def test_page_shows_what_the_report_holds(report, tmp_path):
    _full(report).save(tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    for heading in ("Bytes of weights", "Multiply-accumulates", "Latency by layer", "Activation"):
        assert heading in page
    tags = _Tags()
    tags.feed(page)
    text = " ".join(tags.text)
    for row in report.rows:
        assert row.layer in text and row.operator in text
    assert f"{report.rows[1].macs:,}" in text
    report.save(tmp_path / "y.html")
    assert "Latency" not in (tmp_path / "y.html").read_text()


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the PATH")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", ["plain", "nasty"])
def test_page_in_a_browser(report, tmp_path, width, kind):
    (_full if kind == "plain" else _nasty)(report).save(tmp_path / "page.html")
    # A window is at least 500 pixels wide; a frame can be narrower, and can be measured.
    (tmp_path / "frame.html").write_text(
        f'<iframe id="frame" src="page.html" style="width:{width}px;height:900px;border:0">'
        "</iframe><pre id='found'></pre><script>\n"
        "document.getElementById('frame').onload = (event) => {\n"
        "  const page = event.target.contentDocument, root = page.documentElement;\n"
        "  const bars = [...page.querySelectorAll('.bar rect')];\n"
        "  document.getElementById('found').textContent = 'found ' + JSON.stringify({\n"
        "    overflow: root.scrollWidth - root.clientWidth, width: page.defaultView.innerWidth,\n"
        "    title: page.title, height: root.scrollHeight, bars: bars.length,\n"
        "    drawn: bars.filter((bar) => bar.getBoundingClientRect().height > 3).length,\n"
        "    steps: page.querySelectorAll('.steps rect').length});\n"
        "};</script>"
    )
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000"]
    result = subprocess.run(
        [*command, (tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in result.stderr, result.stderr
    line = re.search(r"found (\{.*?\})<", result.stdout)
    assert line is not None, result.stdout[-2000:] + result.stderr[-2000:]
    found = json.loads(html.unescape(line.group(1)))
    assert found["overflow"] <= 0 and found["width"] == width
    # Nothing in it ran: the title is the file's name.
    assert found["title"].endswith(": report") and found["title"] != "run"
    assert found["height"] > 1500
    assert found["bars"] > 8 and found["drawn"] == found["bars"]
    assert found["steps"] == len(report.rows)
