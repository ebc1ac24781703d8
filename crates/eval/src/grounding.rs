//! Accuracy of boxes (`evaluate_grounding.py`).

use crate::Variant;

/// True if the predicted box overlaps the true one by at least half. `[x1, y1, x2, y2]` is in pixels of a picture of that width and height.
///
/// The coordinates of an answer are thousandths. The original divides them by 999; corrected: by 1000. Both count an answer without a box as an
/// empty box at the corner.
pub fn grounding_match(answer: &str, truth: [f64; 4], width: f64, height: f64, variant: Variant) -> bool {
    let whole = match variant {
        Variant::Original => 999.0,
        Variant::Corrected => 1000.0,
    };
    let [x1, y1, x2, y2] = predicted_box(answer).unwrap_or_default().map(|value| value / whole);
    iou([x1 * width, y1 * height, x2 * width, y2 * height], truth) >= 0.5
}

/// Returns the first `(x,y),(x,y)` of an answer.
pub fn predicted_box(answer: &str) -> Option<[f64; 4]> {
    // `\((.*?)\),\((.*?)\)` from the first opening bracket that leads to a match; the dot does not match a line end.
    let (first, second) = answer.match_indices('(').find_map(|(open, _)| {
        let line = answer[open + 1..].lines().next()?;
        let (first, rest) = line.split_once("),(")?;
        let (second, _) = rest.split_once(')')?;
        Some((first, second))
    })?;
    let point = |text: &str| -> Option<[f64; 2]> {
        let numbers: Vec<f64> = text.split(',').map(|number| number.trim().parse().ok()).collect::<Option<_>>()?;
        numbers.try_into().ok()
    };
    let ([x1, y1], [x2, y2]) = (point(first)?, point(second)?);
    Some([x1, y1, x2, y2])
}

/// Intersection over union of two boxes.
pub fn iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    let area = |[x1, y1, x2, y2]: [f64; 4]| (x2 - x1) * (y2 - y1);
    let across = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let down = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let shared = across * down;
    shared / (area(a) + area(b) - shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_box() {
        assert_eq!(predicted_box("(1,2),(30,40)</box>"), Some([1.0, 2.0, 30.0, 40.0]));
        assert_eq!(predicted_box("it (the cat) is at (1,2),(3,4) and (5,6),(7,8)"), None, "the pattern takes the first bracket");
        assert_eq!(predicted_box("a box (1,2),(3,4) and (5,6),(7,8)"), Some([1.0, 2.0, 3.0, 4.0]));
        for bad in ["", "(1,2)", "(1),(2)", "(1,2,3),(4,5)", "(a,b),(c,d)", "(1,2),(3,4"] {
            assert_eq!(predicted_box(bad), None, "{bad}");
        }
    }

    #[test]
    fn half_is_enough() {
        assert_eq!(iou([0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]), 0.5);
        assert_eq!(iou([0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]), 0.0);
        let truth = [0.0, 0.0, 500.0, 1000.0];
        assert!(grounding_match("(0,0),(999,999)", truth, 1000.0, 1000.0, Variant::Original));
        assert!(grounding_match("(0,0),(999,1000)", truth, 1000.0, 1000.0, Variant::Corrected));
        // One answer, two verdicts: half of the box and a little more, and a little less.
        let truth = [0.0, 0.0, 998.0, 1000.0];
        assert!(grounding_match("(0,0),(499,999)", truth, 1000.0, 1000.0, Variant::Original));
        assert!(!grounding_match("(0,0),(499,999)", truth, 1000.0, 1000.0, Variant::Corrected));
        assert!(!grounding_match("no box", truth, 1000.0, 1000.0, Variant::Original));
    }
}
