package com.example.bnn

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

/**
 * Runs a .tflite file of bnnkeras, by the names of its signature.
 *
 * `org.tensorflow.lite.Interpreter` is the one of Larq Compute Engine's archive, which knows its
 * operators; that of TensorFlow Lite's own archive refuses the file.
 */
class Classifier(file: File, threads: Int = 4) : AutoCloseable {
    private val interpreter = Interpreter(file, Interpreter.Options().setNumThreads(threads))
    private val input = interpreter.getSignatureInputs(SIGNATURE).single()
    private val output = interpreter.getSignatureOutputs(SIGNATURE).first()
    private val inputTensor = interpreter.getInputTensorFromSignature(input, SIGNATURE)
    private val outputTensor = interpreter.getOutputTensorFromSignature(output, SIGNATURE)

    /** The position of the largest output for values of one sample: rows first, channels last. */
    fun classify(values: FloatArray): Int {
        require(values.size == inputTensor.numElements()) {
            "The model takes ${inputTensor.numElements()} values. Received: ${values.size}"
        }
        val inputs = buffer(values.size).apply { asFloatBuffer().put(values) }
        val outputs = buffer(outputTensor.numElements())
        interpreter.runSignature(mapOf(input to inputs), mapOf(output to outputs), SIGNATURE)
        outputs.rewind()
        val results = FloatArray(outputTensor.numElements())
        outputs.asFloatBuffer().get(results)
        return results.indices.maxByOrNull { results[it] } ?: -1
    }

    override fun close() = interpreter.close()

    private fun buffer(size: Int): ByteBuffer =
        ByteBuffer.allocateDirect(size * Float.SIZE_BYTES).order(ByteOrder.nativeOrder())

    private companion object {
        const val SIGNATURE = "serving_default"
    }
}
