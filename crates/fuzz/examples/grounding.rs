//! Reads answers from the standard input, one a line, and writes text and objects of each: the peer of `pkg-tests/fuzz/targets/grounding.mjs`.

use qwen_vl_processor::{Family, NumberedPicture, PictureSize, parse_grounding};
use serde::Deserialize;
use std::io::{BufRead, Write};

#[derive(Deserialize)]
struct Request {
    family: Family,
    raw: String,
    sizes: Vec<[u32; 2]>,
    seen: [u32; 2],
    question: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Request { family, raw, sizes, seen, question } = serde_json::from_str(&line?)?;
        let size = |[width, height]: [u32; 2]| PictureSize { width, height };
        let numbered = (1..).zip(sizes).map(|(number, own)| NumberedPicture { number, size: size(own), seen: size(seen) });
        let grounded = parse_grounding(family, &raw, &numbered.collect::<Vec<_>>(), &question).stripped();
        writeln!(output, "{}", serde_json::to_string(&grounded)?)?;
        output.flush()?;
    }
    Ok(())
}
