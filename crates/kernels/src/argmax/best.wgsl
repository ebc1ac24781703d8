// The best of a workgroup of LANES. 8 bytes of workgroup memory, because software adapters are slow to compile the clearing of it.

var<workgroup> largest: atomic<u32>;
var<workgroup> first: atomic<u32>;

// Returns the largest place of all lanes and the lowest index that has it. A lane without logits has the place 0.
fn best_of(place: u32, index: u32, lane: u32) -> vec2<u32> {
  if (lane == 0u) {
    atomicStore(&largest, 0u);
    atomicStore(&first, 0xffffffffu);
  }
  workgroupBarrier();
  atomicMax(&largest, place);
  workgroupBarrier();
  let all = atomicLoad(&largest);
  if (place == all) {
    atomicMin(&first, index);
  }
  workgroupBarrier();
  return vec2<u32>(all, atomicLoad(&first));
}
