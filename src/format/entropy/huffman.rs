//! Huffman codes.
