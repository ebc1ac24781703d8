//! Accuracy of boxes (`evaluate_grounding.py`).

use crate::Variant;
use qwen_vl_processor::{GroundedObject, Shape};

/// True if the box in an answer of the 2023 model overlaps the true one by at least half. `[x1, y1, x2, y2]` is in pixels of a picture of that
/// width and height.
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

/// True if a box in thousandths of the picture overlaps the true one by at least half, for answers of the later generations. The original scripts
/// are of the 2023 model, so this function has no [`Variant`].
pub fn box_match(corners: [u32; 4], truth: [f64; 4], width: f64, height: f64) -> bool {
    let [x1, y1, x2, y2] = corners.map(|value| f64::from(value) / 1000.0);
    iou([x1 * width, y1 * height, x2 * width, y2 * height], truth) >= 0.5
}

/// Returns the first box among the objects of an answer, in thousandths of the picture. An answer without a box has an empty one at the corner.
pub fn first_box(objects: &[GroundedObject]) -> [u32; 4] {
    let corners = |object: &GroundedObject| match object.norm {
        Shape::Box(corners) => Some(corners),
        Shape::Quad(_) | Shape::Point(_) => None,
    };
    objects.iter().find_map(corners).unwrap_or_default()
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
    use qwen_vl_processor::{Family, NumberedPicture, PictureSize, parse_grounding};

    /// A picture of 1000×500 pixels that the model sees as 560×280: its left half is the true box.
    #[test]
    fn boxes_of_later_generations() {
        let (size, seen) = (PictureSize { width: 1000, height: 500 }, PictureSize { width: 560, height: 280 });
        let truth = [0.0, 0.0, 500.0, 500.0];
        let found = |family, answer: &str| {
            let picture = NumberedPicture { number: 1, size, seen };
            let corners = first_box(&parse_grounding(family, answer, &[picture], "").objects);
            (corners, box_match(corners, truth, 1000.0, 500.0))
        };
        // Pixels of the picture that the model sees.
        let answer =
            "```json\n[{\"bbox_2d\": [0, 0, 280, 280], \"label\": \"left\"}, {\"bbox_2d\": [280, 0, 560, 280], \"label\": \"right\"}]\n```";
        assert_eq!(found(Family::Qwen25Vl, answer), ([0, 0, 500, 1000], true));
        // The same numbers are thousandths for Qwen3-VL, and less than a fifth of the box.
        assert_eq!(found(Family::Qwen3Vl, answer), ([0, 0, 280, 280], false));
        // Half of the box, and a little less.
        for (right, matches) in [(250, true), (249, false)] {
            let answer = format!("[{{\"bbox_2d\": [0, 0, {right}, 1000], \"label\": \"left\"}}]");
            assert_eq!(found(Family::Qwen3Vl, &answer), ([0, 0, right, 1000], matches));
            let answer = format!("<|object_ref_start|>left<|object_ref_end|><|box_start|>(0,0),({right},1000)<|box_end|>");
            assert_eq!(found(Family::Qwen2Vl, &answer), ([0, 0, right, 1000], matches));
        }
        // A point is not a box.
        let answer = "[{\"point_2d\": [5, 5], \"label\": \"left\"}, {\"bbox_2d\": [0, 0, 500, 1000], \"label\": \"left\"}]";
        assert_eq!(found(Family::Qwen3Vl, answer), ([0, 0, 500, 1000], true));
        for family in [Family::Qwen2Vl, Family::Qwen25Vl, Family::Qwen3Vl] {
            for answer in ["", "There is none.", "[{\"bbox_2d\": [0, 0, 50", "(0,0),(500,1000)"] {
                assert_eq!(found(family, answer), ([0; 4], false), "{family:?}: {answer}");
            }
        }
    }

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
