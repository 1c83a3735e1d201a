"""The gate for .pth files: their zip archive and their pickle are read before torch may load them."""
