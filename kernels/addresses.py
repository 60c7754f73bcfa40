# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Rows of tensors inside numba functions, from addresses.

`Tensor.numpy()` costs as much as these operations do on the rows of one decode step, so they are
handed `Tensor.data_ptr()` and build their arrays in compiled code. The caller keeps the tensors
alive during the call. numba's cache of compiled code is keyed by the file of the function that is
called, and does not see an edit of this one: delete the `*.nbi` files after it.
"""

from numba import carray, njit, types
from numba.extending import intrinsic


def _pointer_to(number):
    """A compiled function: int64 address -> pointer to `number`."""

    def cast(typing, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(number)(types.int64), generate

    return intrinsic(cast)


_float32 = _pointer_to(types.float32)
_uint8 = _pointer_to(types.uint8)
_int32 = _pointer_to(types.int32)
_int64 = _pointer_to(types.int64)


@njit(nogil=True)
def floats(address, size):
    """The `size` adjacent float32 numbers at `address`, as an array."""
    return carray(_float32(address), size)


@njit(nogil=True)
def uint8s(address, size):
    """The `size` adjacent bytes at `address`, as an array."""
    return carray(_uint8(address), size)


@njit(nogil=True)
def int32s(address, size):
    """The `size` adjacent int32 numbers at `address`, as an array."""
    return carray(_int32(address), size)


@njit(nogil=True)
def int64s(address, size):
    """The `size` adjacent int64 numbers at `address`, as an array."""
    return carray(_int64(address), size)


@njit(nogil=True)
def float_row(address, row, stride, size):
    """The first `size` numbers of a row of a float32 matrix whose rows are `stride` apart."""
    return floats(address + 4 * row * stride, size)
