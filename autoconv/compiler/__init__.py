"""Cross-compilation for a named device, with no GPU: cubins, their resources, recorded launches."""
