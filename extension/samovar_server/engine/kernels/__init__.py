"""Kernels of our own for CPUs, written in LLVM's language and compiled for the processor at hand."""
