//! Measures a conversion: `full_size CONFIG.json QWEN.TIKTOKEN FOLDER`.
//!
//! Writes a random checkpoint to `FOLDER/source` if none is there (19.3 GB with the published configuration of Qwen-VL), reads its weights
//! plainly, converts it to `FOLDER/web` with the defaults, verifies the result, and prints times, rates and the peak of resident memory.
//! Fails if a bound does not hold: 1 GiB of memory, and for Qwen-VL 5.1 to 5.6 GB of shards.

use anyhow::{Context, Result, ensure};
use quantize::Options;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, tokenizer, folder] = arguments.as_slice() else {
        anyhow::bail!("usage: full_size CONFIG.json QWEN.TIKTOKEN FOLDER");
    };
    let (source, web) = (Path::new(folder).join("source"), Path::new(folder).join("web"));
    // The vocabulary is written before the weights, the marker after them.
    let marker = source.join("complete");
    if !marker.is_file() {
        let read = |path: &String| std::fs::read(path).with_context(|| format!("could not read {path}"));
        let config = serde_json::from_slice(&read(config)?).context("the configuration is not JSON")?;
        qwen_vl_testkit::synthetic::write_synthetic_checkpoint(&config, 0, &read(tokenizer)?, &source)?;
        std::fs::write(&marker, "").context("could not mark the checkpoint as complete")?;
    }

    let mut weights = Vec::new();
    for entry in std::fs::read_dir(&source).context("could not list the checkpoint")? {
        let path = entry.context("could not list the checkpoint")?.path();
        weights.extend(path.extension().is_some_and(|extension| extension == "safetensors").then_some(path));
    }
    weights.sort();
    let started = Instant::now();
    let bytes = read_plainly(&weights)?;
    report("plain reading", bytes, started, None);

    reset_peak();
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let mut options = Options::new(&source, &web);
    options.write.force = true;
    let summary = quantize::convert(&options, &mut |_| ())?;
    report("conversion", bytes, started, cpu.zip(cpu_seconds()).map(|(before, after)| after - before));
    let peak = peak_memory();
    println!(
        "peak resident memory    {}",
        peak.map_or("unknown on this system".to_owned(), |bytes| format!("{:.0} MB", bytes as f64 / 1e6))
    );
    for total in &summary.schemes {
        println!("{:<23} {} weights in {} bytes", total.scheme, total.weights, total.bytes);
    }
    println!("shards                  {} with {} bytes, {:.2} bits a weight", summary.shards, summary.shard_bytes, summary.bits_per_weight);

    let started = Instant::now();
    let problems = quantize::verify(&web, &mut |_| ())?;
    report("verification", summary.shard_bytes, started, None);
    ensure!(problems.is_empty(), "the result is damaged: {problems:?}");
    ensure!(peak.is_none_or(|peak| peak < 1 << 30), "the conversion took 1 GiB of memory or more");
    if bytes > 19_000_000_000 {
        ensure!((5_100_000_000..=5_600_000_000).contains(&summary.shard_bytes), "the result is not of 5.1 to 5.6 GB");
    }
    println!("every byte is right, and every bound holds");
    Ok(())
}

fn report(what: &str, bytes: u64, started: Instant, cpu: Option<f64>) {
    let seconds = started.elapsed().as_secs_f64();
    let cpu = cpu.map_or(String::new(), |cpu| format!(", {cpu:.1} s of processor time"));
    println!("{what:<23} {bytes} bytes in {seconds:.1} s: {:.0} MB/s{cpu}", bytes as f64 / 1e6 / seconds);
}

fn read_plainly(paths: &[PathBuf]) -> Result<u64> {
    let (mut buffer, mut bytes) = (vec![0; 4 << 20], 0);
    for path in paths {
        let mut file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
        loop {
            let count = file.read(&mut buffer).with_context(|| format!("could not read {}", path.display()))?;
            if count == 0 {
                break;
            }
            bytes += count as u64;
        }
    }
    Ok(bytes)
}

/// Forgets the peak so far (Linux).
fn reset_peak() {
    // If the peak cannot be reset it includes the reading, and is still an upper bound.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Most resident bytes since then (Linux).
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Processor time of this process in seconds (Linux, whose clock ticks a hundred times a second).
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
}
