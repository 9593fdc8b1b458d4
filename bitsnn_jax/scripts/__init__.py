"""The three commands: `bitsnn-train`, `bitsnn-convert`, `bitsnn-compare`."""
