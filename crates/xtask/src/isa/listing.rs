//! Listings of assembly as blocks of instructions and loops, for AMD ([`amd`]) and for NVIDIA ([`nvidia`]).

use std::collections::BTreeMap;

/// An instruction, as far as the figures distinguish it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instruction {
    /// Arithmetic of every lane.
    Valu,
    /// A load of every lane from memory, which is not workgroup memory.
    Load,
    /// A wait for such loads.
    Wait,
    /// Any other.
    Other,
}

/// A block of instructions that is entered at its first.
#[derive(Debug, Default)]
struct Block {
    name: String,
    instructions: Vec<Instruction>,
    /// Names of the blocks that may be next, as far as the listing says.
    next: Vec<String>,
}

/// The instructions of a loop, those of the loops in it included.
#[derive(Debug, PartialEq, Eq)]
pub struct Loop {
    /// In the order of the listing.
    pub instructions: Vec<Instruction>,
    /// True if no loop is in it.
    pub innermost: bool,
}

impl Loop {
    /// Returns the number of instructions that are arithmetic of every lane.
    pub fn valu(&self) -> usize {
        self.instructions.iter().filter(|instruction| **instruction == Instruction::Valu).count()
    }

    /// Returns the number of loads before the first wait that follows a load.
    pub fn loads_in_flight(&self) -> usize {
        let mut loads = 0;
        for instruction in &self.instructions {
            match instruction {
                Instruction::Load => loads += 1,
                Instruction::Wait if loads > 0 => break,
                _ => {}
            }
        }
        loads
    }
}

/// Returns the loops of RADV's assembly: blocks begin with `BB7:`, comments with `;`.
pub fn amd(assembly: &str) -> Vec<Loop> {
    let mut blocks: Vec<Block> = Vec::new();
    for line in assembly.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| name.starts_with("BB")) {
            blocks.push(Block { name: name.to_owned(), ..Block::default() });
        } else if let Some((text, block)) = line.strip_prefix('\t').zip(blocks.last_mut()) {
            let text = text.split(';').next().unwrap_or_default();
            let mut words = text.split_whitespace();
            let Some(operation) = words.next() else { continue };
            block.instructions.push(amd_instruction(operation, text));
            if operation.starts_with("s_branch") || operation.starts_with("s_cbranch") {
                block.next.extend(words.next().map(str::to_owned));
            }
        }
    }
    loops(&blocks)
}

fn amd_instruction(operation: &str, text: &str) -> Instruction {
    const LOADS: [&str; 3] = ["buffer_load", "global_load", "flat_load"];
    if operation.starts_with("v_") {
        Instruction::Valu
    } else if LOADS.iter().any(|load| operation.starts_with(load)) {
        Instruction::Load
    } else if (operation == "s_waitcnt" && text.contains("vmcnt")) || operation.starts_with("s_wait_loadcnt") {
        Instruction::Wait
    } else {
        Instruction::Other
    }
}

/// Returns the loops of NAK's assembly: blocks begin with `block.u 3 L1 [0, 2] -> {` and end with `} -> [4, 5]`, results are left of `=`,
/// comments begin with `//`. Loads and waits are not distinguished: NAK loads single words with a branch around each.
pub fn nvidia(assembly: &str) -> Vec<Loop> {
    let mut blocks: Vec<Block> = Vec::new();
    for line in assembly.lines() {
        if line.starts_with("block") {
            let name = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
            blocks.push(Block { name, ..Block::default() });
        } else if let Some((next, block)) = line.strip_prefix("} -> [").zip(blocks.last_mut()) {
            let next = next.trim_end_matches(']').split(',').map(str::trim);
            block.next.extend(next.filter(|name| !name.is_empty()).map(str::to_owned));
        } else if let Some(block) = blocks.last_mut() {
            block.instructions.extend(nvidia_instruction(line.split("//").next().unwrap_or_default()));
        }
    }
    loops(&blocks)
}

fn nvidia_instruction(text: &str) -> Option<Instruction> {
    const NOT_ARITHMETIC: [&str; 16] =
        ["ld", "ldc", "st", "atom", "red", "bar", "bclear", "bra", "brk", "bsync", "bssy", "exit", "membar", "nop", "s2r", "warpsync"];
    let (results, operation) = match text.split_once(" = ") {
        Some((results, operation)) => (results.trim(), operation),
        None => ("", text),
    };
    // A predicate, as in `@!p0 bra L0`, is in front of the results.
    let mut words = operation.split_whitespace().filter(|word| !word.starts_with('@'));
    let kind = words.next()?.split('.').next()?;
    // Uniform results are computed once for all lanes.
    let uniform = results.split_whitespace().find(|word| !word.starts_with('@')).is_some_and(|result| result.starts_with('u'));
    Some(if uniform || NOT_ARITHMETIC.contains(&kind) { Instruction::Other } else { Instruction::Valu })
}

/// Returns the loops in the order of their heads: a branch to its own block or to an earlier one closes a loop, which is all between the two.
fn loops(blocks: &[Block]) -> Vec<Loop> {
    let places: BTreeMap<&str, usize> = blocks.iter().enumerate().map(|(place, block)| (block.name.as_str(), place)).collect();
    let mut ends: BTreeMap<usize, usize> = BTreeMap::new();
    for (place, block) in blocks.iter().enumerate() {
        for head in block.next.iter().filter_map(|name| places.get(name.as_str())).filter(|head| **head <= place) {
            ends.insert(*head, place);
        }
    }
    let inside = |head: usize, end: usize| ends.iter().any(|(other, other_end)| *other > head && *other_end <= end);
    let instructions = |head: usize, end: usize| blocks[head..=end].iter().flat_map(|block| &block.instructions).copied().collect();
    ends.iter().map(|(&head, &end)| Loop { instructions: instructions(head, end), innermost: !inside(head, end) }).collect()
}
