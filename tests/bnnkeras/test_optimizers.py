"""Bop and CaseOptimizer: Larq's numbers, every way Keras applies an optimizer, saving."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import layers
from bnnkeras.optimizers import Bop, CaseOptimizer


def numpy(x):
    return ops.convert_to_numpy(x)


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def tensor(x):
    return ops.convert_to_tensor(x)


def assert_float32(actual, expected, label=""):
    """Equal to float32 precision: two units in the last place of the largest value."""
    bound = 2**-22 * np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound, err_msg=label)


# --- Bop -----------------------------------------------------------------------------------------


def bop_of_case(case, golden):
    if case == "default":
        return Bop()
    if case == "schedule":
        initial, decay = golden["bop_schedule/initial"], golden["bop_schedule/decay"]
        threshold, gamma = (
            keras.optimizers.schedules.InverseTimeDecay(float(start), 1.0, float(rate))
            for start, rate in zip(initial, decay, strict=True)
        )
        return Bop(threshold=threshold, gamma=gamma)
    return Bop(float(golden[f"bop_{case}/threshold"]), float(golden[f"bop_{case}/gamma"]))


@pytest.mark.parametrize(
    "case", ["binary", "default", "large_gamma", "real_start", "tie", "schedule"]
)
@pytest.mark.parametrize("stateless", [False, True], ids=["apply", "stateless_apply"])
def test_bop_is_larqs(case, stateless, goldens, backend):
    if stateless and backend == "tensorflow":
        pytest.skip("Keras has no stateless_apply on TensorFlow")
    golden = goldens("larq", "optimizers")
    weights = keras.Variable(golden[f"bop_{case}/weights0"], name="weights")
    optimizer = bop_of_case(case, golden)
    optimizer.build([weights])
    for step, gradient in enumerate(golden[f"bop_{case}/gradients"]):
        if stateless:
            state = [variable.value for variable in optimizer.variables]
            new, state = optimizer.stateless_apply(state, [tensor(gradient)], [weights.value])
            weights.assign(new[0])
            for variable, value in zip(optimizer.variables, state, strict=True):
                variable.assign(value)
        else:
            optimizer.apply([tensor(gradient)], [weights])
        np.testing.assert_array_equal(numpy(weights), golden[f"bop_{case}/weights"][step])
        momentum = next(v for v in optimizer.variables if "momentum" in v.name)
        assert_float32(numpy(momentum), golden[f"bop_{case}/momentum"][step], f"step {step}")


def test_bop_defaults_and_assignment():
    optimizer = Bop()
    assert optimizer.name == "Bop"
    np.testing.assert_allclose(
        [numpy(optimizer.threshold), numpy(optimizer.gamma)], [1e-8, 1e-4], rtol=1e-6
    )
    optimizer.gamma = 0.5
    optimizer.threshold = 0.25
    assert [float(numpy(optimizer.gamma)), float(numpy(optimizer.threshold))] == [0.5, 0.25]
    assert {variable.name for variable in optimizer.variables} >= {"gamma", "threshold"}


@pytest.mark.parametrize("schedule", [False, True])
def test_bop_serialization(schedule):
    decay = keras.optimizers.schedules.PolynomialDecay(5e-4, 100)
    optimizer = Bop(gamma=decay, threshold=decay, clipnorm=2.0) if schedule else Bop(0.25, 0.5)
    config = keras.optimizers.serialize(optimizer)
    copy = keras.optimizers.deserialize(config)
    assert type(copy) is Bop and keras.optimizers.serialize(copy) == config
    assert "learning_rate" not in config["config"]
    if schedule:
        assert isinstance(copy._gamma, keras.optimizers.schedules.PolynomialDecay)
        assert copy.clipnorm == 2.0
        with pytest.raises(TypeError, match="`gamma` follows a schedule.*Received: gamma=0.1"):
            copy.gamma = 0.1
    else:
        assert float(numpy(copy.threshold)) == 0.25 and float(numpy(copy.gamma)) == 0.5


@pytest.mark.parametrize("argument", ["threshold", "gamma"])
@pytest.mark.parametrize("value", ["1e-3", None, True, len])
def test_bop_rejects(argument, value):
    with pytest.raises(TypeError, match=f"`{argument}` must be a number or .*Received: {argument}"):
        Bop(**{argument: value})


def test_bop_has_no_learning_rate():
    with pytest.raises(ValueError, match="no learning rate.*Received: learning_rate=0.1"):
        Bop(learning_rate=0.1)


def test_is_binary_variable():
    variable = keras.Variable([1.0])
    assert not Bop.is_binary_variable(variable)
    variable.precision = 2
    assert not Bop.is_binary_variable(variable)
    variable.precision = 1
    assert Bop.is_binary_variable(variable) and Bop().is_binary_variable(variable)


# --- CaseOptimizer on bare variables --------------------------------------------------------------


def is_kernel(variable):
    return "kernel" in variable.name


def two_variables(golden):
    kernel = keras.Variable(golden["case/kernel0"], name="kernel")
    kernel.precision = 1
    return kernel, keras.Variable(golden["case/bias0"], name="bias")


@pytest.mark.parametrize("order", ["as_built", "reversed"])
def test_case_is_larqs(order, goldens):
    golden = goldens("larq", "optimizers")
    kernel, bias = two_variables(golden)
    bop = Bop(float(golden["case/threshold"]), float(golden["case/gamma"]))
    sgd = keras.optimizers.SGD(
        float(golden["case/learning_rate"]), momentum=float(golden["case/sgd_momentum"])
    )
    optimizer = CaseOptimizer((Bop.is_binary_variable, bop), default_optimizer=sgd)
    optimizer.build([kernel, bias])
    for step in range(3):
        pairs = [
            (tensor(golden["case/kernel_gradients"][step]), kernel),
            (tensor(golden["case/bias_gradients"][step]), bias),
        ]
        optimizer.apply_gradients(pairs if order == "as_built" else pairs[::-1])
        np.testing.assert_array_equal(numpy(kernel), golden["case/kernel"][step])
        assert_float32(numpy(bias), golden["case/bias"][step], f"step {step}")
    assert optimizer.optimizers == [bop, sgd] and optimizer.default is sgd
    assert optimizer.var_opt_mapping == {kernel.path: 0, bias.path: 1}
    assert int(numpy(optimizer.iterations)) == int(numpy(bop.iterations)) == 3


def test_case_stateless_apply_under_jit(goldens, backend):
    if backend != "jax":
        pytest.skip("jax.jit is JAX's")
    import jax

    golden = goldens("larq", "optimizers")
    variables = two_variables(golden)
    optimizer = CaseOptimizer(
        (Bop.is_binary_variable, Bop(float(golden["case/threshold"]), float(golden["case/gamma"]))),
        default_optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
    )
    optimizer.build(list(variables))
    values = [variable.value for variable in variables]
    state = [variable.value for variable in optimizer.variables]
    step = jax.jit(optimizer.stateless_apply)
    for index in range(3):
        gradients = [golden[f"case/{name}_gradients"][index] for name in ("kernel", "bias")]
        values, state = step(state, gradients, values)
        np.testing.assert_array_equal(values[0], golden["case/kernel"][index])
        assert_float32(numpy(values[1]), golden["case/bias"][index])


def test_variables_are_those_of_all_optimizers():
    kernel, bias = keras.Variable([1.0], name="kernel"), keras.Variable([1.0], name="bias")
    bop, sgd = Bop(), keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer = CaseOptimizer((is_kernel, bop), default_optimizer=sgd)
    optimizer.build([kernel, bias])
    ids = {id(variable) for variable in optimizer.variables}
    assert {id(variable) for variable in bop.variables + sgd.variables} < ids
    assert len(ids) == len(optimizer.variables)
    assert id(kernel) not in ids and id(bias) not in ids


def test_constraints_are_applied_once_to_trained_variables():
    class AddOne(keras.constraints.Constraint):
        def __call__(self, w):
            return w + 1

    kernel, bias, frozen = (
        keras.Variable([0.0], name=name) for name in ("kernel", "bias", "frozen")
    )
    for variable in (kernel, bias, frozen):
        variable.constraint = AddOne()
    sgd = keras.optimizers.SGD
    optimizer = CaseOptimizer((is_kernel, sgd(0.5)), (lambda v: v.name == "bias", sgd(0.25)))
    with pytest.warns(UserWarning, match="No `default_optimizer` .* variable `frozen`"):
        optimizer.build([kernel, bias, frozen])
    optimizer.apply([tensor([1.0])] * 3, [kernel, bias, frozen])
    assert [float(numpy(v)[0]) for v in (kernel, bias, frozen)] == [0.5, 0.75, 0.0]
    assert optimizer.var_opt_mapping == {kernel.path: 0, bias.path: 1}


def test_missing_gradients():
    kernel, bias = keras.Variable([1.0], name="kernel"), keras.Variable([1.0], name="bias")
    sgd = keras.optimizers.SGD
    optimizer = CaseOptimizer((is_kernel, sgd(0.5)), default_optimizer=sgd(0.5))
    optimizer.apply([tensor([1.0]), None], [kernel, bias])
    assert [float(numpy(v)[0]) for v in (kernel, bias)] == [0.5, 1.0]
    with pytest.raises(ValueError, match="No gradients provided for any variable. Received"):
        optimizer.apply([None, None], [kernel, bias])


def test_learning_rate_is_that_of_the_default():
    optimizer = CaseOptimizer((is_kernel, Bop()), default_optimizer=keras.optimizers.SGD(0.5))
    assert float(numpy(optimizer.learning_rate)) == 0.5
    optimizer.learning_rate = 0.25
    assert float(numpy(optimizer.default.learning_rate)) == 0.25
    without = CaseOptimizer((is_kernel, Bop()))
    assert not hasattr(without, "learning_rate")
    with pytest.raises(AttributeError, match="without default optimizer has no learning rate"):
        without.learning_rate = 0.5


def test_moving_averages_are_finalized():
    kernel, bias = keras.Variable([1.0], name="kernel"), keras.Variable([1.0], name="bias")
    average = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    optimizer = CaseOptimizer((is_kernel, Bop()), default_optimizer=average)
    for _ in range(2):
        optimizer.apply([tensor([0.0]), tensor([1.0])], [kernel, bias])
    optimizer.finalize_variable_values([kernel, bias])
    assert float(numpy(bias)[0]) == -0.5 and float(numpy(kernel)[0]) == 1.0


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pairs, default, message",
    [
        ([(False, Bop)], None, r"`predicate_optimizer_pairs\[0\]\[0\]` must be a callable"),
        ([(is_kernel, lambda: False)], None, r"`predicate_optimizer_pairs\[0\]\[1\]` must be a k"),
        ([(is_kernel, Bop)], "adam", "`default_optimizer` must be a keras"),
        ([None], None, r"`predicate_optimizer_pairs\[0\]` must be a pair"),
    ],
)
def test_type_errors(pairs, default, message):
    pairs = [pair and (pair[0], pair[1]()) for pair in pairs]
    with pytest.raises(TypeError, match=message + ".*Received: "):
        CaseOptimizer(*pairs, default_optimizer=default)


def test_claim_errors():
    kernel = keras.Variable([1.0], name="kernel")
    twice = CaseOptimizer((is_kernel, Bop()), (is_kernel, Bop()))
    with pytest.raises(ValueError, match="`kernel` claimed by multiple optimizers. Received"):
        twice.apply([tensor([1.0])], [kernel])
    never = CaseOptimizer((Bop.is_binary_variable, Bop(name="b")), default_optimizer=Bop())
    with pytest.raises(ValueError, match="Optimizer `b` did not claim any variables. Received"):
        never.apply([tensor([1.0])], [kernel])
    with pytest.raises(ValueError, match="must be built.*Received"):
        CaseOptimizer((is_kernel, Bop())).apply([tensor([1.0])])


def test_value_errors():
    bop = Bop()
    with pytest.raises(ValueError, match="each only once. Received"):
        CaseOptimizer((is_kernel, bop), default_optimizer=bop)
    with pytest.raises(ValueError, match="at least one optimizer.*Received"):
        CaseOptimizer()
    for inner in (keras.optimizers.LossScaleOptimizer(Bop()), Bop(loss_scale_factor=2.0)):
        with pytest.raises(ValueError, match="cannot scale the loss.*Received"):
            CaseOptimizer((is_kernel, inner))


# --- Models ---------------------------------------------------------------------------------------


def build_model(**quantizer):
    quantizer = quantizer or {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.QuantDense(20, **quantizer, name="first"),
            keras.layers.BatchNormalization(scale=False, name="norm"),
            layers.QuantDense(3, input_quantizer="ste_sign", **quantizer, name="second"),
            keras.layers.Activation("softmax", dtype="float32"),
        ],
        name="small",
    )


def data(count=64):
    x = random((count, 10))
    return x, np.argmax(x[:, :3], axis=1)


def bop_and_adam(predicate=Bop.is_binary_variable):
    return CaseOptimizer(
        (predicate, Bop(threshold=1e-3, gamma=1e-2)), default_optimizer=keras.optimizers.Adam(0.01)
    )


MODES = {"eager": {"run_eagerly": True, "jit_compile": False}, "compiled": {}}


@pytest.mark.parametrize("mode", MODES)
def test_fit(mode):
    model = build_model()
    loss = "sparse_categorical_crossentropy"
    model.compile(bop_and_adam(), loss, metrics=["accuracy"], **MODES[mode])
    before = [numpy(variable).copy() for variable in model.trainable_variables]
    x, y = data(128)
    history = model.fit(x, y, epochs=5, batch_size=16, verbose=0).history
    assert history["accuracy"][-1] > max(0.5, history["accuracy"][0])
    for variable, value in zip(model.trainable_variables, before, strict=True):
        assert not np.array_equal(numpy(variable), value), variable.path
        if variable.name == "kernel":
            assert set(np.unique(numpy(variable))) == {-1.0, 1.0}
    claims = {
        path.rsplit("/")[-1]: claim for path, claim in model.optimizer.var_opt_mapping.items()
    }
    assert claims == {"kernel": 0, "bias": 1, "beta": 1}


def test_modes_agree():
    x, y = data(32)
    results = []
    for mode in MODES.values():
        keras.utils.set_random_seed(0)
        model = build_model()
        # Adam would make steps of gradients that are 0 but for rounding (biases before a norm).
        optimizer = CaseOptimizer(
            (Bop.is_binary_variable, Bop(threshold=1e-3, gamma=1e-2)),
            default_optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        )
        model.compile(optimizer, "sparse_categorical_crossentropy", **mode)
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        results.append([numpy(variable) for variable in model.weights])
    for eager, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


def test_bop_alone_and_without_default():
    """Only the kernels train; the others keep their values, with a warning."""
    model = build_model()
    model.compile(CaseOptimizer((Bop.is_binary_variable, Bop(gamma=0.1))), loss="mse")
    before = [numpy(variable).copy() for variable in model.trainable_variables]
    x, _ = data()
    with pytest.warns(UserWarning, match="No `default_optimizer` provided to train variable"):
        model.fit(x, random((64, 3)), batch_size=16, verbose=0)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        assert np.array_equal(numpy(variable), value) == (variable.name != "kernel")


def test_weight_clip_inside_case_optimizer():
    model = build_model()
    optimizer = CaseOptimizer(
        (Bop.is_binary_variable, keras.optimizers.SGD(50.0)),
        default_optimizer=keras.optimizers.SGD(0.1),
    )
    model.compile(optimizer, loss="mse")
    x, _ = data()
    model.fit(x, random((64, 3)), batch_size=16, verbose=0)
    kernels = [numpy(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")]
    assert [float(np.abs(kernel).max()) for kernel in kernels] == [1.0, 1.0]


@keras.saving.register_keras_serializable("test_optimizers")
def registered_predicate(variable):
    return variable.name == "kernel"


@pytest.mark.parametrize(
    "predicate", [Bop.is_binary_variable, registered_predicate, lambda v: v.name == "kernel"]
)
def test_save_and_load_continues_identically(predicate, tmp_path):
    """Momentums, iterations and hyperparameters come back; so do claims of unsaved predicates."""
    x, y = data(32)
    model = build_model()
    model.compile(bop_and_adam(predicate), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    model.optimizer.optimizers[0].gamma = 0.05
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is CaseOptimizer
    state = [numpy(variable) for variable in model.optimizer.variables]
    for variable, value in zip(loaded.optimizer.variables, state, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)
    assert any("momentum" in v.name and numpy(v).any() for v in loaded.optimizer.variables)
    for each in (model, loaded):
        each.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert loaded.optimizer._claims == model.optimizer._claims == [0, 1, 1, 0, 1]
    for one, other in zip(loaded.variables, model.variables, strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(other))


def test_case_serialization():
    optimizer = bop_and_adam()
    config = keras.optimizers.serialize(optimizer)
    copy = keras.optimizers.deserialize(config)
    assert keras.optimizers.serialize(copy) == config
    assert copy.predicates == [Bop.is_binary_variable]
    without = CaseOptimizer((Bop.is_binary_variable, Bop()), name="only")
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(without))
    assert copy.default is None and copy.name == "only" and len(copy.optimizers) == 1


def test_unsaved_predicates():
    kernel, other = keras.Variable([1.0], name="kernel"), keras.Variable([1.0], name="other")
    optimizer = CaseOptimizer((lambda variable: True, Bop()))
    copy = CaseOptimizer.from_config(optimizer.get_config())
    with pytest.raises(ValueError, match="saved before its first step.*Received: kernel"):
        copy.build([kernel])
    optimizer.build([kernel])
    copy = CaseOptimizer.from_config(optimizer.get_config())
    assert copy.get_config() == optimizer.get_config()
    with pytest.raises(ValueError, match=r"had other variables: .*Received: \['other'\]"):
        copy.build([other])
    copy.build([kernel])
    assert copy.var_opt_mapping == {"kernel": 0}


@pytest.mark.parametrize("mode", MODES)
def test_mixed_float16_with_loss_scaling(mode):
    """compile() wraps the CaseOptimizer; infinite gradients skip the step of every optimizer."""
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build_model()
    finally:
        keras.config.set_dtype_policy(default)
    model.compile(bop_and_adam(), "sparse_categorical_crossentropy", **MODES[mode])
    optimizer = model.optimizer
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(optimizer.inner_optimizer, CaseOptimizer)
    x, y = data(64)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    steps = [int(numpy(o.iterations)) for o in optimizer.inner_optimizer.optimizers]
    assert steps[0] == steps[1] > 0
    for layer in (model.get_layer("first"), model.get_layer("second")):
        assert set(np.unique(numpy(layer.kernel))) == {-1.0, 1.0}
    before = [numpy(variable).copy() for variable in model.trainable_variables]
    scale = float(numpy(optimizer.dynamic_scale))
    model.fit(np.full_like(x[:16], np.inf), y[:16], verbose=0)
    assert float(numpy(optimizer.dynamic_scale)) == scale / 2
    assert [int(numpy(o.iterations)) for o in optimizer.inner_optimizer.optimizers] == steps
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)


# --- Larq's training steps of quantized layers ----------------------------------------------------

STEPS = [
    ("ste_sign", "ste_sign"),
    ("magnitude_aware_sign", "approx_sign"),
    ("ste_tern", None),
    ("swish_sign", "ste_heaviside"),
    ("approx_sign", "swish_sign"),
]


@pytest.mark.parametrize("kernel_quantizer, input_quantizer", STEPS)
def test_training_steps_are_larqs(kernel_quantizer, input_quantizer, goldens):
    """Three steps of SGD with weight_clip: kernels, losses and quantized kernels."""
    golden = {
        name.split("/")[1]: array
        for name, array in goldens("larq", "optimizers").items()
        if name.startswith(f"dense_{kernel_quantizer}_{input_quantizer}/")
    }
    x, target = golden["x"], golden["target"]
    layer = layers.QuantDense(
        3,
        kernel_quantizer=kernel_quantizer,
        input_quantizer=input_quantizer,
        kernel_constraint="weight_clip",
    )
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    layer.set_weights([golden["kernel0"], golden["bias0"]])
    assert_float32(numpy(model(x)), golden["y0"])
    for step in range(3):
        # Three steps of rounding: a few units in the last place.
        loss = model.train_on_batch(x, target)
        np.testing.assert_allclose(loss, golden["loss"][step], rtol=2e-6)
        np.testing.assert_allclose(numpy(layer.kernel), golden["kernel"][step], atol=2e-6)
    quantized = numpy(layer.quantized_kernel())
    np.testing.assert_allclose(quantized, golden["kernel_quantized"], atol=2e-6)
