"""The two pools a swap goes between: tensors, and what kernels have to know of them.

Both are views of memory that somebody else owns, made once per pool and used for every swap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autellix_kernels.errors import LayoutMismatch, WrongDevice
from autellix_kernels.layout import (
    PAGE_SIZES,
    HostLayout,
    HostStrides,
    access_bytes,
    host_extent,
    host_shape,
    host_strides,
)


class DevicePool:
    """KV on the device: for each component a buffer per layer.

    Attributes:
        components: for each component its layers' buffers, each ``[slots, heads, dim]``, heads and elements without
            gaps between them, slots with any stride that the layers have in common.
        device: where all of them are.
        dtype: what all of them have, any type of whole bytes.
        layers: how many a component has.
        slots: tokens that the pool has room for.
        row_bytes: for each component, the bytes of a token in a layer.
        slot_strides: for each component, the bytes from a slot to the next.
        starts: for each component its layers' addresses.
        addresses: the same on the device, int64 ``[components, layers]``.
        alignments: for each component, the widest access in bytes that fits every row.

    Args:
        components: as above; they are mutated by `swap_in` alone.

    Raises:
        LayoutMismatch: the buffers differ in what they have to have in common, or a row has gaps.
        WrongDevice: they are not all on the same device.
    """

    def __init__(self, components: Sequence[Sequence[Tensor]]) -> None:
        self.components = tuple(tuple(layers) for layers in components)
        buffers = [buffer for layers in self.components for buffer in layers]
        if not buffers or len({len(layers) for layers in self.components}) != 1:
            raise LayoutMismatch("components of a device pool need as many layers as one another, and at least one")
        self.device, self.dtype, self.slots = buffers[0].device, buffers[0].dtype, buffers[0].shape[0]
        self.layers = len(self.components[0])
        for buffer in buffers:
            self._check(buffer)
        first = [layers[0] for layers in self.components]
        self.row_bytes: tuple[int, ...] = tuple(buffer[0].nbytes for buffer in first)
        self.slot_strides = tuple(_stride(buffer) for buffer in first)
        for layers, row_bytes, stride in zip(self.components, self.row_bytes, self.slot_strides, strict=True):
            if any((buffer[0].nbytes, _stride(buffer)) != (row_bytes, stride) for buffer in layers):
                raise LayoutMismatch("layers of a component differ in the size of a row or in the stride between slots")
        self.starts = tuple(tuple(buffer.data_ptr() for buffer in layers) for layers in self.components)
        self.addresses = torch.tensor(self.starts, dtype=torch.int64).to(self.device)
        self.alignments = tuple(
            access_bytes(*starts, stride, row_bytes)
            for starts, stride, row_bytes in zip(self.starts, self.slot_strides, self.row_bytes, strict=True)
        )

    @classmethod
    def mha(cls, keys: Sequence[Tensor], values: Sequence[Tensor]) -> DevicePool:
        """Return the pool of a model with MHA or GQA.

        Args:
            keys: of each layer, ``[slots, heads, dim]``.
            values: likewise; their `dim` may be another.
        """
        return cls((keys, values))

    @classmethod
    def mla(cls, latents: Sequence[Tensor]) -> DevicePool:
        """Return the pool of a model with MLA.

        Args:
            latents: of each layer, ``[slots, 1, rank + rope]``.
        """
        return cls((latents,))

    def rows(self, component: int, layer: int) -> Tensor:
        """Return a layer of a component as bytes, a view ``[slots, row_bytes]``."""
        return _bytes(self.components[component][layer]).flatten(1)

    def _check(self, buffer: Tensor) -> None:
        if buffer.device != self.device:
            raise WrongDevice(f"a device pool has buffers on {self.device} and on {buffer.device}")
        if buffer.dtype != self.dtype or buffer.ndim != 3 or buffer.shape[0] != self.slots or not buffer.numel():
            raise LayoutMismatch(
                f"buffers of a device pool are [slots, heads, dim] with slots and type in common; "
                f"here are [{self.slots}, ...] of {self.dtype} and {list(buffer.shape)} of {buffer.dtype}"
            )
        if not buffer[0].is_contiguous() or buffer.stride(0) < buffer[0].numel():
            raise LayoutMismatch("the heads and elements of a slot have gaps between them, or slots overlap")


class HostPool:
    """KV in host memory: one buffer for each component.

    Attributes:
        buffers: for each component all layers, without gaps, of the shape that `layout.host_shape` gives.
        layout: order of the memory.
        page_size: tokens in a page.
        device: where the buffers are: the CPU, or the GPU's own memory where a pool is staged there.
        dtype: what all of them have.
        layers: how many a component has.
        slots: tokens that the pool has room for, whole pages.
        row_bytes: for each component, the bytes of a token in a layer.
        strides: for each component.
        alignments: for each component, the widest access in bytes that fits every row.
        pinned: a GPU can reach all of it, because torch or `cudaHostRegister` has pinned it.

    Args:
        buffers: as above; they are mutated by `swap_out` alone. Each is in one registration, if it is registered: CUDA
            refuses a copy of adjacent bytes that are in two.
        layout: order of the memory, or its name.
        page_size: tokens in a page, 1 to 64.

    Raises:
        LayoutMismatch: a buffer has not the shape that it should have, or not that of the others.
        WrongDevice: they are not all on the same device.
    """

    def __init__(self, buffers: Sequence[Tensor], layout: HostLayout | str, page_size: int) -> None:
        if layout not in list(HostLayout):
            raise LayoutMismatch(f"host layout is {layout}; choose one of: {', '.join(HostLayout)}")
        if page_size not in PAGE_SIZES:
            raise LayoutMismatch(f"page size is {page_size}; it has to be {PAGE_SIZES[0]} to {PAGE_SIZES[-1]} tokens")
        if not buffers:
            raise LayoutMismatch("a host pool needs a buffer for each component, and has none")
        self.buffers, self.layout, self.page_size = tuple(buffers), HostLayout(layout), page_size
        self.device, self.dtype = buffers[0].device, buffers[0].dtype
        self.layers, self.slots = self._extent(buffers[0])
        for buffer in buffers:
            if buffer.device != self.device:
                raise WrongDevice(f"a host pool has buffers on {self.device} and on {buffer.device}")
            if buffer.dtype != self.dtype or self._extent(buffer) != (self.layers, self.slots):
                raise LayoutMismatch("buffers of a host pool differ in type, layers or slots")
        self.row_bytes: tuple[int, ...] = tuple(buffer.nbytes // (self.layers * self.slots) for buffer in buffers)
        self.strides = tuple(self._strides(row_bytes) for row_bytes in self.row_bytes)
        self.alignments = tuple(
            access_bytes(buffer.data_ptr(), strides.page, strides.token, strides.layer)
            for buffer, strides in zip(buffers, self.strides, strict=True)
        )
        self.pinned = all(buffer.device.type == "cuda" or _pinned(buffer) for buffer in buffers)

    @classmethod
    def beside(cls, pool: DevicePool, layout: HostLayout | str, *, pages: int, page_size: int) -> HostPool:
        """Return a new pool for what `pool` holds, pinned if that is on a GPU; its contents are by chance.

        Torch takes pinned memory by the power of two, for each component.

        Args:
            pool: whose KV it is for.
            layout: order of the memory.
            pages: how many there are.
            page_size: tokens in a page.
        """
        layout = HostLayout(layout)
        buffers = []
        for layers in pool.components:
            _, heads, dim = layers[0].shape
            shape = host_shape(layout, layers=pool.layers, pages=pages, page_size=page_size, heads=heads, dim=dim)
            buffers.append(torch.empty(shape, dtype=pool.dtype, pin_memory=pool.device.type == "cuda"))
        return cls(buffers, layout, page_size)

    @classmethod
    def stage(cls, pool: HostPool, *, layers: int, pages: int, device: torch.device) -> HostPool:
        """Return a new pool of the same layout and kind of rows, on a device.

        Args:
            pool: what it is to be like.
            layers: how many it has.
            pages: how many it has.
            device: where its memory is.
        """
        buffers = []
        for buffer in pool.buffers:
            heads, dim = buffer.shape[-2:]
            shape = host_shape(pool.layout, layers=layers, pages=pages, page_size=pool.page_size, heads=heads, dim=dim)
            buffers.append(torch.empty(shape, dtype=pool.dtype, device=device))
        return cls(buffers, pool.layout, pool.page_size)

    def rows(self, component: int, layer: int) -> Tensor:
        """Return a layer of a component as bytes, a view ``[pages, page_size, row_bytes]``."""
        strides = self.strides[component]
        whole = _bytes(self.buffers[component]).flatten()
        return whole.as_strided(
            (self.slots // self.page_size, self.page_size, self.row_bytes[component]),
            (strides.page, strides.token, 1),
            # A buffer may be a part of a larger one, as keys and values are of SGLang's.
            whole.storage_offset() + layer * strides.layer,
        )

    def _extent(self, buffer: Tensor) -> tuple[int, int]:
        extent = host_extent(self.layout, tuple(buffer.shape), self.page_size)
        if extent is None or not buffer.numel() or not buffer.is_contiguous():
            raise LayoutMismatch(
                f"a buffer of shape {list(buffer.shape)} is no {self.layout} host memory without gaps "
                f"in pages of {self.page_size}"
            )
        return extent

    def _strides(self, row_bytes: int) -> HostStrides:
        return host_strides(
            self.layout, layers=self.layers, slots=self.slots, page_size=self.page_size, row_bytes=row_bytes
        )


def _stride(buffer: Tensor) -> int:
    """Return the bytes from a slot to the next."""
    return int(buffer.stride(0) * buffer.element_size())


def _pinned(buffer: Tensor) -> bool:
    """Return whether a GPU reaches a buffer's first and last element; torch looks no further than where a tensor is."""
    return all(end.is_pinned() for end in (buffer, buffer.flatten()[-1:]))


def _bytes(tensor: Tensor) -> Tensor:
    """Return the same memory as bytes; the last dimension grows by the size of an element."""
    return tensor.view(torch.uint8)
