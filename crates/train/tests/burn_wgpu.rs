//! Runs `train` on burn-wgpu and on the CPU. The test needs the feature `wgpu` and an adapter: `cargo xtask test --only burn-wgpu` runs it on
//! lavapipe.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

/// Steps of the first stage: two lines of the log. The other stages have two steps.
const STEPS: usize = 40;
/// Largest relative difference of a loss. The devices sum in different orders, and AdamW's first steps have the size of the learning rate
/// even where a gradient is only rounding. Measured on lavapipe: 1e-7 on texts, 3e-5 with pictures.
const LOSS_TOLERANCE: f64 = 1e-4;
/// Largest relative difference of a gradient's norm. Measured: 2e-4.
const NORM_TOLERANCE: f64 = 1e-3;

/// The recipe `nano` with one layer and one block, and rows for seconds instead of minutes.
fn recipe() -> Value {
    let mut recipe: Value = serde_json::from_str(include_str!("../recipes/nano.json")).unwrap();
    recipe["model"]["num_hidden_layers"] = json!(1);
    recipe["model"]["visual"]["layers"] = json!(1);
    for (index, stage) in recipe["stages"].as_array_mut().unwrap().iter_mut().enumerate() {
        stage["steps"] = json!(if index == 0 { STEPS } else { 2 });
        stage["warmup"] = json!(1);
        stage["rows"] = json!(2);
    }
    recipe
}

fn train(device: &str, recipe: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    command.args(["--device", device, "--recipe"]).arg(recipe).arg("--out").arg(out);
    command
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs all stages, and returns the output and the lines of the log.
fn run(device: &str, recipe: &Path, out: &Path) -> (String, Vec<Value>) {
    let output = train(device, recipe, out).output().unwrap();
    let (printed, errors) = texts(&output);
    assert!(output.status.success(), "{device}: {printed}\n{errors}");
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    (printed, log.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn losses_agree_with_the_cpu_and_fall() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recipe.json");
    std::fs::write(&file, recipe().to_string()).unwrap();
    let (printed, log) = run("wgpu", &file, &folder.path().join("wgpu"));
    let adapter = printed.lines().next().unwrap();
    println!("{adapter}");
    assert!(adapter.starts_with("adapter: ") && (adapter.ends_with("Vulkan)") || adapter.ends_with("Metal)")), "{printed}");
    let (_, want) = run("flex", &file, &folder.path().join("flex"));

    assert_eq!(log.len(), want.len());
    for (got, want) in log.iter().zip(&want) {
        let what = format!("{} step {}", want["stage"], want["step"]);
        for field in ["stage", "step", "samples", "rate"] {
            assert_eq!(got[field], want[field], "{what}: {field}");
        }
        for (field, tolerance) in [("loss", LOSS_TOLERANCE), ("validation_loss", LOSS_TOLERANCE), ("gradient_norm", NORM_TOLERANCE)] {
            let (Some(got), Some(want)) = (got[field].as_f64(), want[field].as_f64()) else {
                assert_eq!(got[field], want[field], "{what}: {field}");
                continue;
            };
            println!("{what}: {field} {got}, off by {:.1e}", (got / want - 1.0).abs());
            assert!((got / want - 1.0).abs() < tolerance, "{what}: {field} is {got}, expected {want} as on the CPU");
        }
    }

    let losses = |log: &[Value]| log.iter().map(|line| line["loss"].as_f64().unwrap()).collect::<Vec<_>>();
    assert_ne!(losses(&log), losses(&want), "all losses equal those of the CPU in every bit, so the CPU computed them");
    let text: Vec<Value> = log.iter().filter(|line| line["stage"] == "text").cloned().collect();
    let losses = losses(&text);
    assert_eq!(losses.len(), STEPS / 20);
    assert!(losses.is_sorted_by(|before, after| after < before), "the losses {losses:?} do not fall");
}

#[test]
fn a_missing_adapter_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = train("wgpu", Path::new("nano"), &folder.path().join("out"));
    let output = command.env("CUBECL_WGPU_DEFAULT_DEVICE", "DiscreteGpu(99)").output().unwrap();
    let (_, errors) = texts(&output);
    assert!(!output.status.success());
    assert!(errors.contains("could not open a device of burn-wgpu") && errors.contains("Install"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}
