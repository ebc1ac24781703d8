//! Pictures: parts of a file are changed, and lengths and checksums are repaired.

use super::{bytes, number};
use fastrand::Rng;

/// Mutates a PNG, JPEG, WebP or BMP. GIF has no checksums, and its lengths are single bytes.
pub(crate) fn mutate(input: &mut Vec<u8>, random: &mut Rng) -> bool {
    let mutated = match &input[..] {
        [0x89, b'P', b'N', b'G', ..] => png(input, random),
        [0xff, 0xd8, ..] => jpeg(input, random),
        [b'R', b'I', b'F', b'F', ..] => webp(input, random),
        [b'B', b'M', ..] => bmp(input, random),
        _ => None,
    };
    mutated.map(|file| *input = file).is_some()
}

/// A part of a file: a chunk of PNG or WebP, or a segment of JPEG.
type Part = (Vec<u8>, Vec<u8>);

/// Moves, doubles, leaves out or changes one of the parts.
fn parts(parts: &mut Vec<Part>, random: &mut Rng) {
    if parts.is_empty() {
        return;
    }
    let (at, other) = (random.usize(..parts.len()), random.usize(..parts.len()));
    match random.u8(0..8) {
        0 => parts.swap(at, other),
        1 => parts.insert(other, parts[at].clone()),
        2 => drop(parts.remove(at)),
        _ => {
            let contents = &mut parts[at].1;
            (0..=random.u8(0..3)).for_each(|_| bytes(contents, random));
        }
    }
}

/// Sets a big-endian size of two or four bytes, mostly to a small one: large pictures are slow.
fn size(field: &mut [u8], random: &mut Rng) {
    let old = field.iter().fold(0, |old, byte| old << 8 | u64::from(*byte));
    let new = if random.u8(0..8) == 0 { number(old, random) } else { random.u64(0..24) };
    let len = field.len();
    field.copy_from_slice(&new.to_be_bytes()[8 - len..]);
}

fn png(file: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
    let mut chunks: Vec<Part> = Vec::new();
    let mut rest = file.get(8..)?;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (Some(kind), Some(contents)) = (after.get(..4), after.get(4..).and_then(|after| after.get(..length))) else { break };
        chunks.push((kind.to_vec(), contents.to_vec()));
        rest = after.get(8 + length..).unwrap_or_default();
    }
    match chunks.first_mut() {
        Some((kind, header)) if kind == b"IHDR" && header.len() == 13 && random.u8(0..3) == 0 => {
            match random.u8(0..5) {
                0 => size(&mut header[..4], random),
                1 => size(&mut header[4..8], random),
                2 => header[8] = [1, 2, 4, 8, 16][random.usize(..5)],
                3 => header[9] = [0, 2, 3, 4, 6][random.usize(..5)],
                _ => header[12] = random.u8(0..2),
            }
            if random.bool() {
                let samples = samples(header, random);
                chunks.retain(|(kind, _)| kind != b"IDAT");
                let end = chunks.len().saturating_sub(1);
                chunks.insert(end, (b"IDAT".to_vec(), stored(&samples)));
            }
        }
        _ => parts(&mut chunks, random),
    }
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, contents) in chunks {
        let chunk = [kind, contents].concat();
        file.extend((chunk.len() as u32 - 4).to_be_bytes());
        file.extend(&chunk);
        file.extend(crc32(&chunk).to_be_bytes());
    }
    Some(file)
}

/// Returns lines for the size and colours of a PNG's header, as many as the picture has if it is small.
fn samples(header: &[u8], random: &mut Rng) -> Vec<u8> {
    let size = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]).min(32) as usize;
    let channels = [1, 1, 3, 1, 2, 1, 4][usize::from(header[9].min(6))];
    let line = (size(0) * channels * usize::from(header[8])).div_ceil(8);
    let lines = (0..size(4)).flat_map(|_| {
        let filter = random.u8(0..6);
        let value = random.u8(..);
        std::iter::once(filter).chain((0..line).map(move |at| value.wrapping_mul(at as u8)))
    });
    lines.collect()
}

/// Writes a zlib stream of one stored block.
fn stored(contents: &[u8]) -> Vec<u8> {
    let contents = &contents[..contents.len().min(0xffff)];
    let (a, b) = contents.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    let length = contents.len() as u16;
    [&[0x78, 0x01, 0x01][..], &length.to_le_bytes(), &(!length).to_le_bytes(), contents, &(b << 16 | a).to_be_bytes()].concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn jpeg(file: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
    let mut segments: Vec<Part> = Vec::new();
    let mut rest = file.get(2..)?;
    // The data of the first scan and all behind it are one part.
    while let [0xff, marker, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let contents = after.get(..length.checked_sub(2)?)?;
        segments.push((vec![0xff, *marker], contents.to_vec()));
        rest = &after[length - 2..];
        if *marker == 0xda {
            break;
        }
    }
    let mut data = rest.to_vec();
    match random.u8(0..4) {
        0 => {
            let data = &mut data;
            (0..=random.u8(0..4)).for_each(|_| bytes(data, random));
        }
        1 => {
            let frame = segments.iter_mut().find(|(marker, contents)| matches!(marker[1], 0xc0..=0xc2) && contents.len() > 5);
            let at = 1 + 2 * random.usize(..2);
            size(&mut frame?.1[at..at + 2], random);
        }
        _ => parts(&mut segments, random),
    }
    let mut file = vec![0xff, 0xd8];
    for (marker, contents) in segments {
        file.extend(marker);
        file.extend(((contents.len() + 2) as u16).to_be_bytes());
        file.extend(contents);
    }
    file.extend(data);
    if !file.ends_with(&[0xff, 0xd9]) {
        file.extend([0xff, 0xd9]);
    }
    Some(file)
}

fn webp(file: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
    let mut chunks: Vec<Part> = Vec::new();
    let mut rest = file.get(12..)?;
    while let Some((kind, after)) = rest.split_first_chunk::<4>() {
        let Some((length, after)) = after.split_first_chunk::<4>() else { break };
        let length = u32::from_le_bytes(*length) as usize;
        let Some(contents) = after.get(..length) else { break };
        chunks.push((kind.to_vec(), contents.to_vec()));
        rest = after.get(length.next_multiple_of(2)..).unwrap_or_default();
    }
    parts(&mut chunks, random);
    let mut body = b"WEBP".to_vec();
    for (kind, contents) in chunks {
        body.extend(kind);
        body.extend((contents.len() as u32).to_le_bytes());
        body.extend(&contents);
        body.extend(vec![0; contents.len() % 2]);
    }
    Some([b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat())
}

fn bmp(file: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
    // Offset of the pixels, size of the header, width, height, bits of a pixel, compression, number of colours.
    const FIELDS: [(usize, usize); 7] = [(10, 4), (14, 4), (18, 4), (22, 4), (28, 2), (30, 4), (46, 4)];
    let mut file = file.to_vec();
    let (at, len) = FIELDS[random.usize(..FIELDS.len())];
    let field = file.get_mut(at..at + len)?;
    size(field, random);
    field.reverse();
    if at == 28 {
        field[0] = [1, 4, 8, 16, 24, 32][random.usize(..6)];
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_formats() {
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
        assert!(stored(b"Wikipedia").ends_with(&0x11e6_0398u32.to_be_bytes()));
    }

    /// Most mutated files are still read: the mutations reach the decoder.
    #[test]
    fn mutated_pictures_are_often_read() {
        let seed = std::fs::read(format!("{}/../../tests/fixtures/images/tiny_5x3.png", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let mut random = Rng::with_seed(1);
        let read = |_: &usize| {
            let mut file = seed.clone();
            assert!(mutate(&mut file, &mut random));
            qwen_vl_processor::Picture::decode(&file, qwen_vl_processor::DecodeOptions::DISPLAY).is_ok()
        };
        let count = (0..400).filter(read).count();
        assert!((50..400).contains(&count), "{count} of 400 are read");
    }
}
