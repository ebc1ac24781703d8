//! The directory of a ZIP archive as `torch.save` writes it: stored entries, ZIP64 if large.
//!
//! It is hand-written because only the positions of stored entries are needed: threads read the weights there, without a reader of the
//! archive. The `zip` crate brings decompression and a seeking reader for each thread, and its errors name neither entry nor position.

use super::file::InputFile;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;

const END_MAGIC: &[u8] = b"PK\x05\x06";
const END_LEN: usize = 22;
const ZIP64_LOCATOR_LEN: usize = 20;
const ENTRY_LEN: usize = 46;
const LOCAL_LEN: usize = 30;
/// Upper bound for a directory, in bytes. A thousand tensors take some 100 KB.
const MAX_DIRECTORY: u64 = 64 << 20;
/// The directory's end record is in the last bytes: a comment of up to 64 KiB can follow it.
pub(crate) const TAIL_BYTES: u64 = END_LEN as u64 + 0xffff;

/// A stored (uncompressed) file in the archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// First byte of its contents in the archive.
    pub offset: u64,
    /// Its size.
    pub len: u64,
}

/// Reads the directory: contents of each stored entry, by name.
pub(crate) fn read_directory(file: &InputFile) -> Result<HashMap<String, Entry>> {
    let tail_len = file.len().min(TAIL_BYTES) as usize;
    let tail_at = file.len() - tail_len as u64;
    let tail = file.read_vec(tail_at, tail_len)?;
    let end = (0..=tail_len.saturating_sub(END_LEN))
        .rev()
        .find(|at| tail[*at..].starts_with(END_MAGIC))
        .context("no ZIP directory at its end: the file is truncated, or torch did not write it")?;
    let mut count = u64::from(u16_at(&tail, end + 10)?);
    let mut directory_len = u64::from(u32_at(&tail, end + 12)?);
    let mut directory_at = u64::from(u32_at(&tail, end + 16)?);
    if count == 0xffff || directory_len == 0xffff_ffff || directory_at == 0xffff_ffff {
        let locator = end.checked_sub(ZIP64_LOCATOR_LEN).context("the ZIP64 locator is missing")?;
        ensure!(tail[locator..].starts_with(b"PK\x06\x07"), "the ZIP64 locator is missing");
        let record = file.read_vec(u64_at(&tail, locator + 8)?, 56)?;
        ensure!(record.starts_with(b"PK\x06\x06"), "the ZIP64 directory record is missing");
        count = u64_at(&record, 32)?;
        directory_len = u64_at(&record, 40)?;
        directory_at = u64_at(&record, 48)?;
    }
    ensure!(directory_len <= MAX_DIRECTORY, "its ZIP directory has {directory_len} bytes, expected at most {MAX_DIRECTORY}");

    let directory = file.read_vec(directory_at, directory_len as usize)?;
    let mut listed = Vec::new();
    let mut at = 0;
    for index in 0..count {
        let entry = directory.get(at..).filter(|rest| rest.len() >= ENTRY_LEN && rest.starts_with(b"PK\x01\x02"));
        let entry = entry.with_context(|| format!("its ZIP directory ends at entry {index} of {count}"))?;
        let method = u16_at(entry, 10)?;
        let mut stored_len = u64::from(u32_at(entry, 20)?);
        let mut len = u64::from(u32_at(entry, 24)?);
        let (name_len, extra_len, comment_len) = (u16_at(entry, 28)? as usize, u16_at(entry, 30)? as usize, u16_at(entry, 32)? as usize);
        let mut local_at = u64::from(u32_at(entry, 42)?);
        let name = entry.get(ENTRY_LEN..ENTRY_LEN + name_len).context("its ZIP directory is truncated")?;
        let name = std::str::from_utf8(name).context("a name in its ZIP directory is not UTF-8")?.to_owned();
        let extra = entry.get(ENTRY_LEN + name_len..ENTRY_LEN + name_len + extra_len).context("its ZIP directory is truncated")?;
        for (field, saturated) in zip64_fields(extra)?.replace([&mut len, &mut stored_len, &mut local_at]) {
            *saturated = field?;
        }
        ensure!(method == 0 && len == stored_len, "`{name}` in it is compressed (method {method}); torch stores without compression");
        listed.push((name, len, local_at));
        at += ENTRY_LEN + name_len + extra_len + comment_len;
    }

    file.announce(listed.iter().map(|(.., local_at)| *local_at..local_at.saturating_add(LOCAL_LEN as u64)));
    let mut entries = HashMap::new();
    for (name, len, local_at) in listed {
        let local = file.read_vec(local_at, LOCAL_LEN)?;
        ensure!(local.starts_with(b"PK\x03\x04"), "`{name}` in it has no local header at byte {local_at}");
        let offset = local_at + LOCAL_LEN as u64 + u64::from(u16_at(&local, 26)?) + u64::from(u16_at(&local, 28)?);
        ensure!(
            offset.checked_add(len).is_some_and(|end| end <= file.len()),
            "`{name}` in it takes bytes {offset} to {offset}+{len}, the file has {}",
            file.len()
        );
        if entries.insert(name.clone(), Entry { offset, len }).is_some() {
            bail!("`{name}` is in it twice");
        }
    }
    Ok(entries)
}

/// The 64-bit values of an entry. Each replaces the next 32-bit value that is saturated.
struct Zip64<'a>(&'a [u8]);

fn zip64_fields(mut extra: &[u8]) -> Result<Zip64<'_>> {
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0)?, u16_at(extra, 2)? as usize);
        let body = extra.get(4..4 + len).context("an extra field in its ZIP directory is truncated")?;
        if id == 1 {
            return Ok(Zip64(body));
        }
        extra = &extra[4 + len..];
    }
    Ok(Zip64(&[]))
}

impl<'a> Zip64<'a> {
    /// Pairs each saturated field with its 64-bit value.
    fn replace<'b>(self, fields: [&'b mut u64; 3]) -> impl Iterator<Item = (Result<u64>, &'b mut u64)>
    where
        'a: 'b,
    {
        let saturated = fields.into_iter().filter(|field| **field == 0xffff_ffff);
        saturated.enumerate().map(move |(index, field)| (u64_at(self.0, index * 8), field))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(array_at(bytes, at)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(array_at(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(array_at(bytes, at)?))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    found.copied().context("its ZIP directory is truncated")
}
