//! Draws the loss curves of a run as an SVG.

use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// File name of the log in the folder of a run.
pub const LOG_FILE: &str = "log.jsonl";

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 50.0;
const COLORS: [&str; 4] = ["#4c78a8", "#f58518", "#54a24b", "#b279a2"];

/// Draws `log.jsonl` of a folder to `loss.svg`: a line for each stage over the steps of the whole run, and dots for the validation split.
pub fn write(out: &Path) -> Result<()> {
    let log = std::fs::read_to_string(out.join(LOG_FILE)).with_context(|| format!("could not read {LOG_FILE} in {}", out.display()))?;
    let lines: Vec<serde_json::Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    std::fs::write(out.join("loss.svg"), draw(&lines))?;
    Ok(())
}

/// Name of a stage, and pairs of step and loss for training and for validation.
type Curve = (String, Vec<(f64, f64)>, Vec<(f64, f64)>);

fn draw(lines: &[serde_json::Value]) -> String {
    let mut stages: Vec<Curve> = Vec::new();
    let (mut first, mut last) = (0.0, 0.0);
    for line in lines {
        let (name, step) = (line["stage"].as_str().unwrap_or_default(), line["step"].as_f64().unwrap_or_default());
        if stages.last().is_none_or(|(stage, ..)| stage != name) {
            stages.push((name.to_owned(), vec![], vec![]));
            first = last;
        }
        last = first + step;
        if let Some((_, training, validation)) = stages.last_mut() {
            training.extend(line["loss"].as_f64().map(|loss| (last, loss)));
            validation.extend(line["validation_loss"].as_f64().map(|loss| (last, loss)));
        }
    }
    let highest = stages.iter().flat_map(|(_, training, _)| training).map(|(_, loss)| *loss).fold(0.1, f64::max);
    let x = |step: f64| MARGIN + step / f64::max(last, 1.0) * (WIDTH - 2.0 * MARGIN);
    let y = |loss: f64| HEIGHT - MARGIN - loss / highest * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for tick in 0..=4 {
        let loss = highest * f64::from(tick) / 4.0;
        let _ = writeln!(
            svg,
            "<path d=\"M{MARGIN} {0:.1}H{1}\" stroke=\"#ddd\"/><text x=\"8\" y=\"{2:.1}\">{loss:.2}</text>",
            y(loss),
            WIDTH - MARGIN,
            y(loss) + 4.0
        );
    }
    for (index, (name, training, validation)) in stages.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let path: Vec<String> = training.iter().map(|(step, loss)| format!("{:.1},{:.1}", x(*step), y(*loss))).collect();
        let _ = writeln!(svg, "<polyline fill=\"none\" stroke=\"{color}\" points=\"{}\"/>", path.join(" "));
        for (step, loss) in validation {
            let _ = writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"/>", x(*step), y(*loss));
        }
        if let Some((step, _)) = training.first() {
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\" fill=\"{color}\">{name}</text>", x(*step), MARGIN - 12.0);
        }
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\">steps, {last} in total; loss in nats per token; dots: validation split</text>\n</svg>",
        MARGIN,
        HEIGHT - 15.0
    );
    svg
}
