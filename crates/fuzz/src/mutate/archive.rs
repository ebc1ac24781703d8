//! ZIP archives of stored members, as `torch.save` writes them.

use super::{bytes, number};
use fastrand::Rng;

/// A member of an archive.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) contents: Vec<u8>,
    extra: Vec<u8>,
    /// Size and place in the directory, where they differ from the true ones.
    claimed: [Option<u64>; 2],
}

impl Member {
    pub(crate) fn new(name: &str, contents: Vec<u8>) -> Self {
        Self { name: name.into(), contents, extra: Vec::new(), claimed: [None; 2] }
    }
}

/// Writes an archive.
pub(crate) fn write(members: &[Member]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for Member { name, contents, extra, claimed: [size, place] } in members {
        let place = place.unwrap_or(file.len() as u64);
        let size = size.unwrap_or(contents.len() as u64);
        // ZIP64 has a separate field for sizes that do not fit 32 bits.
        let mut wide = Vec::new();
        let mut narrow = |value: u64, count: usize| match u32::try_from(value) {
            Ok(value) if value < u32::MAX => value,
            _ => {
                (0..count).for_each(|_| wide.extend(value.to_le_bytes()));
                u32::MAX
            }
        };
        let (size, place) = (narrow(size, 2).to_le_bytes(), narrow(place, 1).to_le_bytes());
        if !wide.is_empty() {
            wide.splice(..0, [1u16.to_le_bytes(), (wide.len() as u16).to_le_bytes()].concat());
        }
        let lengths = [name.len() as u16, (wide.len() + extra.len()) as u16].map(u16::to_le_bytes).concat();
        let start = [10u16, 0, 0, 0, 0].map(u16::to_le_bytes).concat();
        file.extend(
            [b"PK\x03\x04", &start[..], &[0; 4], &size, &size, &lengths[..2], &(extra.len() as u16).to_le_bytes(), name, extra].concat(),
        );
        file.extend(contents);
        directory
            .extend([b"PK\x01\x02\x0a\x00", &start[..], &[0; 4], &size, &size, &lengths, &[0; 10], &place, name, &wide, extra].concat());
    }
    let [count, at, len] = [members.len(), file.len(), directory.len()];
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count as u16; 2].map(u16::to_le_bytes).concat());
    file.extend([len as u32, at as u32].map(u32::to_le_bytes).concat());
    file.extend([0; 2]);
    file
}

/// Reads the members of an archive as [`write`] makes it. Those that are damaged are left out.
fn read(file: &[u8]) -> Option<Vec<Member>> {
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(*file.get(at..)?.first_chunk()?)));
    let u32_at = |at: usize| Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?) as usize);
    let end = file.windows(4).rposition(|bytes| bytes == b"PK\x05\x06")?;
    let mut at = u32_at(end + 16)?;
    let mut members = Vec::new();
    while file.get(at..)?.starts_with(b"PK\x01\x02") {
        let (size, name_len, extra_len) = (u32_at(at + 24)?, u16_at(at + 28)?, u16_at(at + 30)?);
        let local = u32_at(at + 42)?;
        let name = file.get(at + 46..at + 46 + name_len)?.to_vec();
        at += 46 + name_len + extra_len + u16_at(at + 32)?;
        let Some(skipped) = u16_at(local + 26).zip(u16_at(local + 28)).map(|(name, extra)| local + 30 + name + extra) else { continue };
        let Some(contents) = file.get(skipped..).and_then(|rest| rest.get(..size)) else { continue };
        members.push(Member { name, contents: contents.to_vec(), extra: Vec::new(), claimed: [None; 2] });
    }
    Some(members)
}

/// Mutates the members of an archive, or a field of its directory.
pub(crate) fn mutate(input: &mut Vec<u8>, random: &mut Rng) -> bool {
    let Some(mut members) = read(input).filter(|members| !members.is_empty()) else { return false };
    let (at, other) = (random.usize(..members.len()), random.usize(..members.len()));
    let size = input.len() as u64;
    match random.u8(0..10) {
        0 => members.swap(at, other),
        1 => members.insert(other, members[at].clone()),
        2 => drop(members.remove(at)),
        3 => bytes(&mut members[at].name, random),
        4 => members[at].name = members[other].name.clone(),
        5 => members[at].claimed[0] = Some(number(members[at].contents.len() as u64, random)),
        6 => members[at].claimed[1] = Some(number(size, random)),
        7 => {
            // A field of ZIP64, or another one.
            let id = random.u16(0..3);
            members[at].extra = [id, 8].map(u16::to_le_bytes).concat();
            members[at].extra.extend(number(size, random).to_le_bytes());
        }
        _ => {
            let contents = &mut members[at].contents;
            (0..=random.u8(0..4)).for_each(|_| bytes(contents, random));
        }
    }
    *input = write(&members);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_as_they_are_written() {
        let file = write(&[Member::new("a/data.pkl", b"abc".to_vec()), Member::new("b", Vec::new())]);
        let members: Vec<_> = read(&file).unwrap().into_iter().map(|member| (member.name, member.contents)).collect();
        assert_eq!(members, [(b"a/data.pkl".to_vec(), b"abc".to_vec()), (b"b".to_vec(), Vec::new())]);
    }
}
