// Weights of many bytes are loaded where they are multiplied: a lane would hold too many registers of them. See matvec.wgsl.
alias Stored = u32;

fn stored_block(row: u32, block: u32, blocks: u32) -> Stored {
  return row * blocks + block;
}
