//! The command line: exit codes, interrupted runs, checks.

use crate::support::{checkpoint, copy, edit_safetensors};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn quantize(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantize"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    quantize(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn exit_codes_and_streams() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (checkpoint("mini-a"), folder.path().join("web"));
    let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
    let done = run(&[source, out, "--json"]);
    assert!(done.status.success());
    assert!(done.stderr.is_empty(), "progress without a terminal: {}", text(&done.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(summary["tensors"], 42);

    let failed = run(&[source, out]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).starts_with("error: ") && text(&failed.stderr).contains("--force"));
    for wrong in [
        vec![],
        vec![source],
        vec![source, out, "--scheme", "q5"],
        vec![source, out, "--keep", "head"],
        vec!["inspect"],
        vec!["report", source],
    ] {
        assert_eq!(run(&wrong).status.code(), Some(2), "{wrong:?}");
    }
    for wrong in [["--group-size", "48"], ["--shard-size", "65"], ["--shard-size", "0"]] {
        assert_eq!(run(&[source, "elsewhere", wrong[0], wrong[1]]).status.code(), Some(1), "{wrong:?}");
    }
    assert!(text(&run(&["--help"]).stdout).contains("Exit codes"));
    assert!(text(&run(&["completions", "bash"]).stdout).contains("--group-size"));
}

#[test]
fn a_dry_run_knows_the_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (checkpoint("mini-b"), folder.path().join("web"));
    let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
    let arguments = [source, out, "--json", "--vision", "q8", "--keep", "lm_head=f16"];
    let dry = run(&[arguments.as_slice(), &["--dry-run"]].concat());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a dry run wrote something");
    let between = run(&[&[source, "--vision", "q8", out], &arguments[2..3], &arguments[5..], &["--dry-run"]].concat());
    assert_eq!(text(&between.stdout), text(&dry.stdout), "options between the paths: {}", text(&between.stderr));
    let real = run(&arguments);
    assert!(dry.status.success() && real.status.success());
    let summary = |output: &Output| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    let (dry, mut real) = (summary(&dry), summary(&real));
    // A dry run encodes nothing.
    for total in real["schemes"].as_array_mut().unwrap() {
        assert!(total["relative_error"].take().is_f64());
    }
    assert_eq!(dry, real);
    // A dry run finds the errors of a run.
    let broken = copy("mini-b");
    fs::remove_file(broken.path().join("model-00002-of-00003.safetensors")).unwrap();
    assert_eq!(run(&[broken.path().to_str().unwrap(), out, "--dry-run"]).status.code(), Some(1));
}

/// The files of a checkpoint one by one, from several folders, give what the folder gives.
#[test]
fn files_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint("mini-b");
    let (whole, listed, apart) = (folder.path().join("whole"), folder.path().join("listed"), folder.path().join("mini-b"));
    assert!(run(&[source.to_str().unwrap(), whole.to_str().unwrap()]).status.success());

    // Weights where they are, the rest in a folder of the same name, which names the checkpoint.
    fs::create_dir(&apart).unwrap();
    let mut list = Vec::new();
    for name in files(&source).into_keys() {
        let path = source.join(&name);
        let path = if name.ends_with(".safetensors") {
            path
        } else {
            fs::copy(&path, apart.join(&name)).unwrap();
            apart.join(&name)
        };
        list.push(path.to_str().unwrap().to_owned());
    }
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let done = run(&[list.as_slice(), &[listed.to_str().unwrap()]].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(files(&listed), files(&whole));
    let report = run(&[["report"].as_slice(), list.as_slice(), &[listed.to_str().unwrap(), "--json"]].concat());
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert!(report["modules"].as_array().unwrap().len() > 3);

    let without = |name: &str| list.iter().copied().filter(|path| !path.ends_with(name)).collect::<Vec<_>>();
    let shard = source.join("model-00002-of-00003.safetensors").to_str().unwrap().to_owned();
    let twice = apart.join("model-00002-of-00003.safetensors");
    fs::copy(&shard, &twice).unwrap();
    let (source, twice) = (source.to_str().unwrap(), twice.to_str().unwrap());
    for (given, parts) in [
        (without("/config.json"), vec!["config.json is missing in the 7 given files"]),
        (without("qwen.tiktoken"), vec!["the vocabulary qwen.tiktoken is missing in the 7 given files", "published checkpoint"]),
        (
            without("model-00002-of-00003.safetensors"),
            vec!["model.safetensors.index.json lists 3 files", "missing in the 7 given files: model-00002-of-00003.safetensors"],
        ),
        ([list.as_slice(), &["nowhere.safetensors"]].concat(), vec!["nowhere.safetensors is not a file"]),
        ([list.as_slice(), &[source]].concat(), vec!["mini-b is a folder: give one folder"]),
        ([list.as_slice(), &[twice]].concat(), vec!["two files have the name `model-00002-of-00003.safetensors`", twice, &shard]),
    ] {
        let out = folder.path().join("refused");
        let failed = run(&[given.as_slice(), &[out.to_str().unwrap()]].concat());
        assert_eq!(failed.status.code(), Some(1));
        for part in parts {
            assert!(text(&failed.stderr).contains(part), "`{part}` is not in: {}", text(&failed.stderr));
        }
        assert!(!out.exists());
    }
    // Without the index the files must hold every tensor.
    let done = run(&[without("index.json").as_slice(), &[folder.path().join("no_index").to_str().unwrap()]].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
}

/// A run that is killed at any time leaves nothing under the output's name, and a run with --resume writes the same bytes.
#[test]
fn a_killed_run_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint("mini-b");
    let whole = folder.path().join("whole");
    let arguments = |out: &Path| {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![text(&source), text(out), "--shard-size".into(), "0.05".into(), "--threads".into(), "2".into()]
    };
    let command = |out: &Path, resume: bool| {
        let mut command = quantize(&[]);
        command.args(arguments(out)).args(resume.then_some("--resume")).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    assert!(command(&whole, false).status().unwrap().success());
    let whole = files(&whole);
    assert!(whole.len() > 20, "{} files", whole.len());

    let mut interrupted = 0;
    for millis in (0..).map(|step| step * 4).take(30) {
        let out = folder.path().join(format!("out-{millis}"));
        let mut child = command(&out, false).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        // Killed between the rename and the removal of the marker, a run leaves the marker.
        let without_marker = |mut files: BTreeMap<String, Vec<u8>>| {
            files.remove(".conversion");
            files
        };
        assert!(!out.exists() || without_marker(files(&out)) == whole, "a killed run left half a folder");
        let partial = folder.path().join(format!("out-{millis}.partial"));
        interrupted += usize::from(partial.is_dir() && files(&partial).keys().any(|name| name.ends_with(".safetensors")));
        if !out.exists() {
            assert!(command(&out, true).status().unwrap().success());
        }
        assert_eq!(without_marker(files(&out)), whole, "resumed after {millis} ms");
        assert!(!partial.exists());
    }
    assert!(interrupted > 0, "no run was killed between two shards");
}

#[test]
fn what_is_resumed_must_be_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let source = copy("mini-b");
    let out = folder.path().join("web");
    let (source_text, out_text) = (source.path().to_str().unwrap(), out.to_str().unwrap());
    // A NaN in the last file: the first shards are written, then the run fails.
    edit_safetensors(&source.path().join("model-00003-of-00003.safetensors"), |header, data| {
        let begin = header["lm_head.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
        data[begin..begin + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    });
    let arguments = [source_text, out_text, "--shard-size", "0.05", "--threads", "1"];
    let failed = run(&arguments);
    assert_eq!(failed.status.code(), Some(1));
    // A run that resumes with the same options fails again, so the message does not suggest it.
    let message = text(&failed.stderr);
    assert!(message.contains("1 NaN") && message.contains("web.partial") && !message.contains("--resume"), "{message}");
    let partial = folder.path().join("web.partial");
    assert!(!out.exists() && files(&partial).len() > 5);

    let other = run(&[arguments.as_slice(), &["--resume", "--allow-nonfinite"]].concat());
    assert!(text(&other.stderr).contains("other options"), "{}", text(&other.stderr));
    let other = run(&[arguments.as_slice(), &["--resume", "--scheme", "q8"]].concat());
    assert!(text(&other.stderr).contains("other options"), "{}", text(&other.stderr));
    // A finished shard with other bytes, or without its record, is made again.
    let finished = files(&partial);
    let (shard, marker) = (partial.join("shard-00000.safetensors"), partial.join(".conversion"));
    let records = String::from_utf8(finished[".conversion"].clone()).unwrap();
    let without_record = records.replacen("\"errors\"", "\"other\"", 1);
    assert_ne!(records, without_record);
    for (bytes, records) in [(b"something else".as_slice(), &records), (&finished["shard-00000.safetensors"], &without_record)] {
        fs::write(&shard, bytes).unwrap();
        fs::write(&marker, records).unwrap();
        let failed = run(&[arguments.as_slice(), &["--resume"]].concat());
        assert!(text(&failed.stderr).contains("1 NaN"), "{}", text(&failed.stderr));
        let mut again = files(&partial);
        let made = String::from_utf8(again.remove(".conversion").unwrap()).unwrap();
        assert!(made.starts_with(records.as_str()) && made[records.len()..].contains("shard-00000"), "{made}");
        assert!(again.iter().all(|(name, bytes)| finished[name] == *bytes) && again.len() + 1 == finished.len());
    }
    // Without --resume it is started over.
    assert!(run(&[arguments.as_slice(), &["--allow-nonfinite"]].concat()).status.success());
    assert!(out.join("manifest.json").exists() && !partial.exists());
}

/// The first process is stopped in the middle, so that it holds its folder for as long as the second one runs.
#[cfg(unix)]
#[test]
fn two_processes_do_not_convert_into_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint("mini-b");
    let signal = |name: &str, child: &std::process::Child| {
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
    };
    for attempt in 0.. {
        let out = folder.path().join(format!("out-{attempt}"));
        let partial = folder.path().join(format!("out-{attempt}.partial"));
        let arguments = [source.to_str().unwrap(), out.to_str().unwrap(), "--shard-size", "0.05", "--threads", "1"];
        let mut child = quantize(&arguments).stdout(Stdio::null()).spawn().unwrap();
        while !partial.join("shard-00000.safetensors").exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if child.try_wait().unwrap().is_none() {
            signal("-STOP", &child);
        }
        let stopped = !out.exists() && partial.exists();
        let others = stopped.then(|| {
            let before = files(&partial);
            let others = [&[][..], &["--resume"], &["--force"], &["--dry-run"]].map(|option| run(&[&arguments, option].concat()));
            assert_eq!(files(&partial), before);
            others
        });
        if child.try_wait().unwrap().is_none() {
            signal("-CONT", &child);
        }
        let pid = child.id();
        assert!(child.wait().unwrap().success());
        let Some(others) = others else { continue };
        for other in others {
            assert_eq!(other.status.code(), Some(1));
            let error = text(&other.stderr);
            let expected = format!("another process (pid {pid}) is converting into {}: wait until it ends", out.display());
            assert!(error.contains(&expected), "{error}");
        }
        assert!(quantize::verify(&out, &mut |_| ()).unwrap().is_empty());
        return;
    }
}

/// A limit of the file size stands for a full disk: writes fail in the middle.
#[cfg(unix)]
#[test]
fn a_failed_write_leaves_a_clear_state() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (checkpoint("mini-b"), folder.path().join("web"));
    let script = format!(
        "trap '' XFSZ; ulimit -f 1000; exec '{}' '{}' '{}' --scheme f32",
        env!("CARGO_BIN_EXE_quantize"),
        source.display(),
        out.display()
    );
    let failed = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stderr));
    let error = text(&failed.stderr);
    assert!(error.contains("could not write") && error.contains("shard-00000.safetensors") && error.contains("--resume"), "{error}");
    assert!(!out.exists());
    let resumed = run(&[source.to_str().unwrap(), out.to_str().unwrap(), "--scheme", "f32", "--resume"]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert!(quantize::verify(&out, &mut |_| ()).unwrap().is_empty());
}

#[test]
fn verify_finds_every_flipped_byte() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("web");
    let (source, out_text) = (checkpoint("mini-a"), out.to_str().unwrap().to_owned());
    assert!(run(&[source.to_str().unwrap(), &out_text, "--shard-size", "0.2"]).status.success());
    let verified = run(&["verify", &out_text]);
    assert!(verified.status.success() && text(&verified.stdout).contains("every byte is right"), "{}", text(&verified.stdout));

    let sound = files(&out);
    for (name, bytes) in sound.iter().filter(|(name, _)| *name != "manifest.json") {
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(out.join(name), damaged).unwrap();
            let problems = quantize::verify(&out, &mut |_| ()).unwrap();
            assert_eq!(problems.len(), 1, "{name}, byte {at}: {problems:?}");
            assert!(problems[0].file == *name && problems[0].problem.contains("SHA-256"), "{problems:?}");
        }
        fs::write(out.join(name), bytes).unwrap();
    }
    fs::write(out.join("shard-00000.safetensors"), &sound["shard-00000.safetensors"][1..]).unwrap();
    fs::remove_file(out.join("NOTICE")).unwrap();
    fs::write(out.join("stray"), "").unwrap();
    let found = run(&["verify", &out_text, "--json"]);
    assert_eq!(found.status.code(), Some(1));
    let problems: Vec<BTreeMap<String, String>> = serde_json::from_slice(&found.stdout).unwrap();
    let named: Vec<&str> = problems.iter().map(|problem| problem["file"].as_str()).collect();
    assert_eq!(named, ["NOTICE", "shard-00000.safetensors", "stray"]);
}

/// Shards with the right hash and with contents that no conversion writes.
#[test]
fn verify_looks_inside() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("web");
    quantize::convert(&quantize::Options::new(checkpoint("mini-b"), &out), &mut |_| ()).unwrap();
    let shard = out.join("shard-00000.safetensors");
    let sound = fs::read(&shard).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
    let part = |name: &str| {
        let tensor = manifest["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == name).unwrap();
        tensor["parts"][0].clone()
    };
    let at = |name: &str, kind: &str| part(name)[kind][0].as_u64().unwrap() as usize;
    // 208 columns of the vision tower are padded to 224; a word holds eight.
    let qkv = "vision.blocks.0.attn.qkv.weight";
    let cases = [
        (at("vision.ln_pre.bias", "data"), f32::NAN.to_le_bytes().to_vec(), "1 values are not finite"),
        (at(qkv, "scales") + 2, half::f16::INFINITY.to_le_bytes().to_vec(), "1 scales are not finite"),
        (at(qkv, "data") + 208 / 2, vec![0x89], "the padding of row 0 is not zero"),
        (sound.windows(6).position(|window| window == b".query").unwrap(), b".qXery".to_vec(), "does not have `resampler.query.data.0`"),
    ];
    for (at, bytes, want) in cases {
        let mut changed = sound.clone();
        changed[at..at + bytes.len()].copy_from_slice(&bytes);
        fs::write(&shard, &changed).unwrap();
        crate::support::edit_json(&out.join("manifest.json"), |manifest| {
            manifest["shards"][0]["sha256"] = qwen_vl_format::ShardHash::of(&changed).into();
            manifest["shards"][0].as_object_mut().unwrap().remove("pieces");
        });
        let problems = quantize::verify(&out, &mut |_| ()).unwrap();
        assert!(problems.iter().any(|problem| problem.problem.contains(want)), "{want}: {problems:?}");
    }
}

#[test]
fn inspect_and_report() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint("mini-b");
    let mut relative = BTreeMap::new();
    for scheme in ["q4", "q8", "f16", "f32"] {
        let out = folder.path().join(scheme);
        assert!(run(&[source.to_str().unwrap(), out.to_str().unwrap(), "--scheme", scheme]).status.success());
        let contents: serde_json::Value = serde_json::from_slice(&run(&["inspect", out.to_str().unwrap(), "--json"]).stdout).unwrap();
        assert_eq!(contents["weights"], 2_940_240);
        assert!(text(&run(&["inspect", out.to_str().unwrap()]).stdout).contains("decoder.layers"));
        let report = run(&["report", source.to_str().unwrap(), out.to_str().unwrap(), "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
        let tensors = report["tensors"].as_array().unwrap();
        let head = tensors.iter().find(|tensor| tensor["name"] == "head.weight").unwrap();
        relative.insert(scheme, head["relative"].as_f64().unwrap());
        assert_eq!(report["modules"].as_array().unwrap().last().unwrap()["module"], "head");
    }
    // The source is f16. Bell-shaped weights: about 0.070 in 4 bits, 0.005 in 8.
    assert_eq!((relative["f32"], relative["f16"]), (0.0, 0.0));
    assert!((0.06..0.08).contains(&relative["q4"]) && (0.003..0.007).contains(&relative["q8"]), "{relative:?}");
    let other = run(&["report", checkpoint("mini-a").to_str().unwrap(), folder.path().join("q4").to_str().unwrap()]);
    assert!(text(&other.stderr).contains("configurations differ"));
}

/// A reader that has ended, as `head` does, ends the program too.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (checkpoint("mini-a"), folder.path().join("web"));
    let out = out.to_str().unwrap();
    assert!(run(&[source.to_str().unwrap(), out]).status.success());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = quantize(&["inspect", out]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(text(&ended.stderr), "");
    assert!(!ended.status.success());
}
