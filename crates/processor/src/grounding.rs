//! Objects in answers, and the text without their markup, as each family writes them.

use crate::json::JsonReader;
use crate::object::{Grounded, GroundingEvent, NumberedPicture, Output, Unit};
use crate::tags::{QWEN_VL, QWEN2_VL, TagReader};
use qwen_vl_format::Family;

/// Reads a whole answer to a question about the pictures of the prompt.
pub fn parse_grounding(family: Family, raw: &str, pictures: &[NumberedPicture], question: &str) -> Grounded {
    let mut parser = GroundingParser::new(family, pictures).asked(question);
    let mut grounded = Grounded::default();
    for event in parser.push(raw).into_iter().chain(parser.finish()) {
        match event {
            GroundingEvent::Text(text) => grounded.text.push_str(&text),
            GroundingEvent::Object(object) => grounded.objects.push(object),
        }
    }
    grounded
}

/// Reads an answer piece by piece. It emits text as soon as it cannot be markup, and an object as soon as it is closed.
///
/// - Qwen-VL and Qwen2-VL write tags: `<ref>a name</ref><box>(x1,y1),(x2,y2)</box>`, or `<|object_ref_start|>`, `<|box_start|>`, ….
///   Malformed answers lose only tags: text after a `<box>` that is not coordinates is text again, and a tag without its counterpart is
///   left out. Coordinates that are cut off or of the wrong number make no object.
/// - Qwen2.5-VL and Qwen3-VL write JSON, in a fence or not: `[{"bbox_2d": [x1, y1, x2, y2], "label": "a name"}]`, also `point_2d` and `text_content`.
///   JSON that is not coordinates stays in the text, unchanged.
///
/// Qwen2.5-VL writes coordinates in pixels of the picture in its size for the model ([`NumberedPicture::seen`]), the others in thousandths of it.
/// Values outside the picture move to its border. The corners of a box stay in the order of the answer.
#[derive(Debug, Clone)]
pub struct GroundingParser {
    reader: Reader,
    output: Output,
}

#[derive(Debug, Clone)]
enum Reader {
    Tags(TagReader),
    Json(JsonReader),
}

impl GroundingParser {
    /// Creates a parser at the start of an answer to a prompt with these pictures.
    pub fn new(family: Family, pictures: &[NumberedPicture]) -> Self {
        let reader = match family {
            Family::QwenVl => Reader::Tags(TagReader::new(&QWEN_VL)),
            Family::Qwen2Vl => Reader::Tags(TagReader::new(&QWEN2_VL)),
            Family::Qwen25Vl | Family::Qwen3Vl => Reader::Json(JsonReader::default()),
        };
        let unit = if family == Family::Qwen25Vl { Unit::SeenPixels } else { Unit::Thousandths };
        Self { reader, output: Output::new(pictures, unit) }
    }

    /// Takes the question into account: an object belongs to the picture that it names.
    pub fn asked(mut self, question: &str) -> Self {
        self.output.ask(question);
        self
    }

    /// Lets the answer continue a prompt: after one that ends in `<ref>a name</ref><box>` or `[{"bbox_2d": [`, the answer begins with
    /// coordinates.
    pub fn continuing(mut self, prompt: &str) -> Self {
        // Only the markup at the end of the last message can still be open.
        self.push(prompt.rsplit("<|im_start|>").next().unwrap_or_default());
        self.output.restart();
        match &mut self.reader {
            Reader::Tags(reader) => reader.begin_answer(),
            Reader::Json(reader) => reader.begin_answer(),
        }
        self
    }

    /// Takes the next piece of the answer, special tokens spelled out.
    pub fn push(&mut self, piece: &str) -> Vec<GroundingEvent> {
        match &mut self.reader {
            Reader::Tags(reader) => reader.push(piece, &mut self.output),
            Reader::Json(reader) => reader.push(piece, &mut self.output),
        }
        self.output.take()
    }

    /// Ends the answer and emits the text that was held back.
    pub fn finish(&mut self) -> Vec<GroundingEvent> {
        match &mut self.reader {
            Reader::Tags(reader) => reader.finish(&mut self.output),
            Reader::Json(reader) => reader.finish(&mut self.output),
        }
        self.output.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{GroundedObject, PictureSize, Shape};
    use serde::Deserialize;
    use std::fmt::Write;

    const SIZES: [PictureSize; 2] = [PictureSize { width: 10, height: 10 }, PictureSize { width: 640, height: 333 }];

    /// A case of `tests/*.json`, see `tests/README.md`.
    #[derive(Deserialize)]
    struct Case {
        family: Option<Family>,
        raw: String,
        pictures: Vec<[u32; 2]>,
        seen: Option<Vec<[u32; 2]>>,
        #[serde(default)]
        question: String,
        text: String,
        objects: Vec<GroundedObject>,
    }

    impl Case {
        fn pictures(&self) -> Vec<NumberedPicture> {
            let size = |[width, height]: [u32; 2]| PictureSize { width, height };
            let seen = self.seen.as_ref().unwrap_or(&self.pictures);
            assert_eq!(seen.len(), self.pictures.len(), "{}", self.raw);
            let sizes = self.pictures.iter().zip(seen);
            (1..).zip(sizes).map(|(number, (own, seen))| NumberedPicture { number, size: size(*own), seen: size(*seen) }).collect()
        }

        fn check(&self, family: Family) {
            let grounded = parse_grounding(family, &self.raw, &self.pictures(), &self.question).stripped();
            assert_eq!((&grounded.text, &grounded.objects), (&self.text, &self.objects), "{family:?}: {}", self.raw);
        }
    }

    /// The cases of all generations, which the TypeScript parser is held to as well.
    fn cases() -> Vec<(Family, Case)> {
        let files =
            [(Family::QwenVl, include_str!("../tests/grounding.json")), (Family::Qwen3Vl, include_str!("../tests/grounding_json.json"))];
        let read = |(family, file): (Family, &str)| {
            let cases: Vec<Case> = serde_json::from_str(file).unwrap();
            cases.into_iter().map(move |case| (case.family.unwrap_or(family), case))
        };
        files.into_iter().flat_map(read).collect()
    }

    /// The cases without a family: they hold for both generations with tags, or for both with JSON.
    fn shared_cases(family: Family) -> impl Iterator<Item = Case> {
        cases().into_iter().filter(move |(of, case)| *of == family && case.family.is_none()).map(|(_, case)| case)
    }

    /// Replaces the tags of Qwen-VL by those of Qwen2-VL.
    fn retagged(text: &str) -> String {
        let mut text = text.to_owned();
        for (tag, other) in [("ref", "object_ref"), ("box", "box"), ("quad", "quad")] {
            text =
                text.replace(&format!("<{tag}>"), &format!("<|{other}_start|>")).replace(&format!("</{tag}>"), &format!("<|{other}_end|>"));
        }
        text
    }

    #[test]
    fn cases_of_all_generations() {
        let cases = cases();
        for family in [Family::QwenVl, Family::Qwen2Vl, Family::Qwen25Vl, Family::Qwen3Vl] {
            let count = cases.iter().filter(|(of, _)| *of == family).count();
            assert!(count >= 60, "{count} cases of {family:?}");
        }
        for (family, case) in cases {
            case.check(family);
        }
    }

    #[test]
    fn cases_with_the_other_tags() {
        for case in shared_cases(Family::QwenVl) {
            Case { raw: retagged(&case.raw), ..case }.check(Family::Qwen2Vl);
        }
    }

    /// Pixels of pictures that Qwen2.5-VL sees with sides of 1000 are thousandths.
    #[test]
    fn cases_of_qwen3_vl_in_pixels() {
        let mut unnamed = 0;
        for mut case in shared_cases(Family::Qwen3Vl) {
            case.seen = Some(vec![[1000; 2]; case.pictures.len()]);
            let Grounded { text, objects } = parse_grounding(Family::Qwen25Vl, &case.raw, &case.pictures(), &case.question).stripped();
            assert_eq!((text, objects.len()), (case.text, case.objects.len()), "{}", case.raw);
            for (object, expected) in objects.into_iter().zip(case.objects) {
                if expected.image.is_none() && !case.pictures.is_empty() {
                    unnamed += 1;
                    assert_eq!((object.image, object.norm), (Some(case.pictures.len() - 1), expected.norm), "{}", case.raw);
                } else {
                    assert_eq!(object, expected, "{}", case.raw);
                }
            }
        }
        assert!(unnamed > 0, "no case has several pictures and names none");
    }

    #[test]
    fn coordinates_of_qwen2_5_vl_are_pixels_of_what_it_saw() {
        let size = |width, height| PictureSize { width, height };
        let picture = |number, size, seen| NumberedPicture { number, size, seen };
        let first = picture(1, size(1000, 500), size(504, 252));
        let second = picture(2, size(100, 300), size(112, 280));
        let object = |raw: &str, pictures: &[NumberedPicture], question: &str| {
            let Grounded { text, mut objects } = parse_grounding(Family::Qwen25Vl, raw, pictures, question);
            let object = objects.pop().unwrap();
            assert_eq!((objects.len(), text.trim()), (0, text.split('`').next().unwrap().trim()), "{raw}");
            (object.image, object.norm, object.pixels, object.reference)
        };
        let raw = "```json\n[{\"bbox_2d\": [126, 63, 252.4, 900], \"label\": \"a cat\"}]\n```";
        let cat = Some("a cat".to_owned());
        let shapes = (Shape::Box([250, 250, 500, 1000]), Some(Shape::Box([250, 125, 500, 500])));
        assert_eq!(object(raw, &[first], ""), (Some(0), shapes.0, shapes.1, cat.clone()));
        // Of several pictures the one that a text names counts, otherwise the last.
        assert_eq!(object(raw, &[first, second], "Where in Picture 1?"), (Some(0), shapes.0, shapes.1, cat.clone()));
        let shapes = (Shape::Box([1000, 225, 1000, 1000]), Some(Shape::Box([100, 67, 100, 300])));
        assert_eq!(object(raw, &[first, second], "Where?"), (Some(1), shapes.0, shapes.1, cat.clone()));
        // Without a picture they are taken for thousandths.
        assert_eq!(object(raw, &[], ""), (None, Shape::Box([126, 63, 252, 900]), None, cat));
        let point = (Some(0), Shape::Point([1000, 0]), Some(Shape::Point([1000, 0])), None);
        assert_eq!(object("[{\"point_2d\": [504, -3]}]", &[first], ""), point);
        // Other generations do not care what the model saw.
        let norm = |family| parse_grounding(family, "[{\"bbox_2d\": [1, 2, 3, 2000]}]", &[first], "").objects[0].clone();
        assert_eq!(
            (norm(Family::Qwen3Vl).norm, norm(Family::Qwen3Vl).pixels),
            (Shape::Box([1, 2, 3, 1000]), Some(Shape::Box([1, 1, 3, 500])))
        );
    }

    /// Answers as Qwen2-VL writes them.
    #[test]
    fn tags_of_a_family_are_text_of_another() {
        let eyes = "<|object_ref_start|>the eyes on a giraffe<|object_ref_end|><|box_start|>(176,106),(232,160)<|box_end|>";
        let pictures = NumberedPicture::in_order(&SIZES[1..]);
        let Grounded { text, objects } = parse_grounding(Family::Qwen2Vl, eyes, &pictures, "");
        assert_eq!((text.as_str(), objects.len()), ("the eyes on a giraffe", 1));
        assert_eq!(
            (objects[0].reference.as_deref(), objects[0].pixels),
            (Some("the eyes on a giraffe"), Some(Shape::Box([112, 35, 148, 53])))
        );
        for (family, raw) in [(Family::QwenVl, eyes), (Family::Qwen3Vl, eyes), (Family::Qwen2Vl, "<ref>a</ref><box>(1,2),(3,4)</box>")] {
            assert_eq!(parse_grounding(family, raw, &pictures, ""), Grounded { text: raw.to_owned(), objects: Vec::new() }, "{family:?}");
        }
    }

    #[test]
    fn long_digits_are_text() {
        let digits = format!("<box>{}", "1".repeat(500));
        assert_eq!(parse_grounding(Family::QwenVl, &digits, &[], "").text.len(), 500);
    }

    #[test]
    fn pictures_with_other_numbers() {
        let [first, second] = SIZES;
        let pictures = |numbers: [usize; 2]| {
            [(numbers[0], first), (numbers[1], second)].map(|(number, size)| NumberedPicture { number, size, seen: size })
        };
        let raw = "<box>(1,2),(3,4)</box>";
        let image = |numbers, question| parse_grounding(Family::QwenVl, raw, &pictures(numbers), question).objects[0].image;
        assert_eq!(image([4, 5], "Where in Picture 5?"), Some(1));
        assert_eq!(image([4, 5], "Where in Picture 2?"), None);
        assert_eq!(image([1, 1], "Where in Picture 1?"), None, "two pictures have this number");
    }

    /// Reads an answer in pieces. Returns each event, neighbouring texts joined.
    fn in_pieces<'a>(mut parser: GroundingParser, pieces: impl IntoIterator<Item = &'a str>) -> Vec<GroundingEvent> {
        let mut events: Vec<GroundingEvent> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
        events.extend(parser.finish());
        let mut joined: Vec<GroundingEvent> = Vec::new();
        for event in events {
            match (joined.last_mut(), event) {
                (Some(GroundingEvent::Text(before)), GroundingEvent::Text(text)) => before.push_str(&text),
                (_, event) => joined.push(event),
            }
        }
        joined
    }

    /// Every cut of a text in two, in single characters and at random places gives the same events as the whole text.
    fn check_pieces(family: Family, raw: &str, random: &mut fastrand::Rng) {
        check_pieces_with(&GroundingParser::new(family, &NumberedPicture::in_order(&SIZES)), raw, random);
    }

    fn check_pieces_with(parser: &GroundingParser, raw: &str, random: &mut fastrand::Rng) {
        let whole = in_pieces(parser.clone(), [raw]);
        let places: Vec<usize> = raw.char_indices().map(|(at, _)| at).chain([raw.len()]).collect();
        let characters = || places.windows(2).map(|pair| &raw[pair[0]..pair[1]]);
        assert_eq!(in_pieces(parser.clone(), characters()), whole, "{raw}");
        for at in &places {
            assert_eq!(in_pieces(parser.clone(), [&raw[..*at], &raw[*at..]]), whole, "{raw} cut at {at}");
        }
        for _ in 0..4 {
            let cuts: Vec<usize> = places.iter().copied().filter(|at| *at == 0 || *at == raw.len() || random.u8(..4) == 0).collect();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &raw[pair[0]..pair[1]]).collect();
            assert_eq!(in_pieces(parser.clone(), pieces.iter().copied()), whole, "{pieces:?}");
        }
    }

    /// With [`cases_of_all_generations`], which checks the whole answers: pieces give the expected texts and objects too.
    #[test]
    fn pieces_give_what_the_whole_gives() {
        let mut random = fastrand::Rng::with_seed(1);
        for (family, case) in cases() {
            check_pieces_with(&GroundingParser::new(family, &case.pictures()).asked(&case.question), &case.raw, &mut random);
        }
        for case in shared_cases(Family::QwenVl) {
            check_pieces(Family::Qwen2Vl, &retagged(&case.raw), &mut random);
        }
        for case in shared_cases(Family::Qwen3Vl) {
            check_pieces(Family::Qwen25Vl, &case.raw, &mut random);
        }
    }

    /// An answer that is cut off has the objects before the cut, and its text has no part of the markup.
    #[test]
    fn markup_never_reaches_the_text() {
        let tags = "<ref> 两个苹果</ref><box>(302,257),(582,671)</box> and <quad>(1,2),(3,4),(5,6),(7,8)</quad><<ref>b</ref>.";
        let json = "Two: ```json\n[\n  {\"bbox_2d\": [302, 257, 582, 671], \"label\": \"两个苹果\"},\n  {\"point_2d\": [1, 2]}\n]\n``` 好.";
        for (family, raw, text) in [
            (Family::QwenVl, tags.to_owned(), " 两个苹果 and <b."),
            (Family::Qwen2Vl, retagged(tags), " 两个苹果 and <b."),
            (Family::Qwen3Vl, json.to_owned(), "Two:  好."),
        ] {
            let pictures = NumberedPicture::in_order(&SIZES);
            let whole = parse_grounding(family, &raw, &pictures, "");
            assert_eq!((whole.text.as_str(), whole.objects.len()), (text, 2));
            for (at, _) in raw.char_indices() {
                // Without the end of the answer: what the listener of a stream has.
                let mut parser = GroundingParser::new(family, &pictures);
                let mut grounded = Grounded::default();
                for event in parser.push(&raw[..at]) {
                    match event {
                        GroundingEvent::Text(text) => grounded.text.push_str(&text),
                        GroundingEvent::Object(object) => grounded.objects.push(object),
                    }
                }
                assert!(text.starts_with(&grounded.text), "{}", grounded.text);
                assert!(whole.objects.starts_with(&grounded.objects));
            }
        }
    }

    /// Random texts of the signs of all syntaxes: every cut gives the same, and nothing is lost where there is nothing of an object.
    #[test]
    fn random_texts() {
        const SIGNS: [&str; 48] = [
            "[",
            "]",
            "{",
            "}",
            "[{",
            "}]",
            "\"",
            ":",
            ",",
            ", ",
            " ",
            "\n",
            "`",
            "```",
            "```json",
            "```python\n",
            "json",
            "\\",
            "\\u00e9",
            "1",
            "-2.5",
            "e9",
            "true",
            "nul",
            "\"name\": ",
            "\"a\"",
            "é",
            "图2",
            "🥣",
            "\u{feff}",
            "\"bbox_2d\": [1, 2, 3, 4]",
            "\"bbox_2d\": ",
            "\"point_2d\": [5, 6]",
            "\"label\": \"猫\"",
            "\"text_content\": ",
            "[1, 2, 3, 4]",
            "{\"bbox_2d\": [1, 2, 3, 4]}",
            "bbox",
            "<",
            "<ref>",
            "</ref>",
            "<box>",
            "(1,2),(3,4)",
            "</box>",
            "<quad>",
            "</quad>",
            "<|box_start|>",
            "<|box_end|>",
        ];
        let mut random = fastrand::Rng::with_seed(20);
        let mut objects = 0;
        for round in 0..2000 {
            let ordinary = round % 2 == 0;
            let signs = if ordinary { &SIGNS[..30] } else { &SIGNS[..] };
            let raw: String = (0..random.usize(1..24)).map(|_| *random.choice(signs).unwrap()).collect();
            for family in [Family::QwenVl, Family::Qwen2Vl, Family::Qwen3Vl] {
                check_pieces(family, &raw, &mut random);
                let grounded = parse_grounding(family, &raw, &[], "");
                objects += grounded.objects.len();
                if ordinary {
                    assert_eq!(grounded.text, raw, "{family:?}");
                }
                // The text is what is left of the answer.
                let mut rest = raw.chars();
                assert!(grounded.text.chars().all(|c| rest.any(|other| other == c)), "{raw}: {}", grounded.text);
            }
        }
        assert!(objects > 100, "{objects} objects");
    }

    /// Random documents whose objects and texts are known, in both languages.
    #[test]
    fn random_documents() {
        let mut random = fastrand::Rng::with_seed(21);
        for _ in 0..300 {
            let (mut raw, mut text, mut expected) = (String::new(), String::new(), Vec::new());
            for _ in 0..random.usize(1..5) {
                let prose = *random.choice(&["The cat is here. ", "图中有一只猫。", "a < b, (1) or ``x``\n", "See [2]: ", ". "]).unwrap();
                raw.push_str(prose);
                text.push_str(prose);
                let fence = *random.choice(&["", "```", "```json\n", "````json "]).unwrap();
                let records: Vec<_> = (0..random.usize(1..5)).map(|_| record(&mut random)).collect();
                let listed = records.len() > 1 || random.bool();
                let ticks: String = fence.chars().take_while(|c| *c == '`').collect();
                if random.u8(..4) == 0 {
                    let other = serde_json::json!([{"name": "x]}", "n": [1, {"bbox_2d": [1, 2, 3, 4]}]}, "`"]);
                    let json = format!("{fence}{other}{ticks}");
                    raw.push_str(&json);
                    text.push_str(&json);
                } else {
                    let space = *random.choice(&["", " ", "\n\t", "\r\n  "]).unwrap();
                    let list: Vec<&str> = records.iter().map(|(json, ..)| json.as_str()).collect();
                    let list = list.join(&format!(",{space}"));
                    let after = if ticks.is_empty() { "" } else { space };
                    let list = if listed { format!("[{space}{list}{space}]") } else { list };
                    write!(raw, "{fence}{after}{list}{after}{ticks}").unwrap();
                    expected.extend(records.into_iter().map(|(_, shape, name)| (shape, name, text.encode_utf16().count())));
                }
            }
            raw.push('!');
            text.push('!');
            let grounded = parse_grounding(Family::Qwen3Vl, &raw, &[], "");
            let found = grounded.objects.into_iter().map(|object| (object.norm, object.reference, object.range[0]));
            assert_eq!((grounded.text, found.collect::<Vec<_>>()), (text, expected), "{raw}");
            check_pieces(Family::Qwen3Vl, &raw, &mut random);
        }
    }

    /// Returns a record in JSON, its shape and its name.
    fn record(random: &mut fastrand::Rng) -> (String, Shape, Option<String>) {
        let mut number = || random.u32(0..=1000);
        let (box_, point) = ([number(), number(), number(), number()], [number(), number()]);
        let (key, shape) = if random.bool() { ("bbox_2d", Shape::Box(box_)) } else { ("point_2d", Shape::Point(point)) };
        let name = random.choice(&[None, Some("cat"), Some("两只 \"猫\""), Some("a\\b\n{[`🥣")]).unwrap().map(str::to_owned);
        let mut members = vec![(key, serde_json::json!(shape))];
        members.extend(name.iter().map(|name| (*random.choice(&["label", "text_content"]).unwrap(), serde_json::json!(name))));
        members.extend(random.bool().then(|| ("color", serde_json::json!(["red", 1.5, true, null, "]}"]))));
        random.shuffle(&mut members);
        let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
        (format!("{{{}}}", members.join(", ")), shape, name)
    }

    /// Bytes that are not UTF-8 reach the parser as U+FFFD; any other text may.
    #[test]
    fn random_bytes() {
        let mut random = fastrand::Rng::with_seed(22);
        for _ in 0..1000 {
            let bytes: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
            let raw = String::from_utf8_lossy(&bytes);
            for family in [Family::QwenVl, Family::Qwen2Vl, Family::Qwen3Vl] {
                check_pieces(family, &raw, &mut random);
                assert_eq!(parse_grounding(family, &raw, &[], "").text, raw);
            }
        }
    }

    #[test]
    fn an_object_comes_as_soon_as_it_is_closed() {
        let mut parser = GroundingParser::new(Family::QwenVl, &NumberedPicture::in_order(&SIZES));
        assert_eq!(parser.push("<ref>a</ref><box>(1,2),(3,4)</bo"), [GroundingEvent::Text("a".into())]);
        assert!(matches!(parser.push("x>").as_slice(), [GroundingEvent::Object(_)]));
    }

    #[test]
    fn a_record_comes_as_soon_as_it_is_closed() {
        let mut parser = GroundingParser::new(Family::Qwen3Vl, &NumberedPicture::in_order(&SIZES[..1]));
        assert_eq!(parser.push("Here: ```json\n[\n"), [GroundingEvent::Text("Here: ".into())]);
        assert_eq!(parser.push("{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"a\""), []);
        assert!(matches!(parser.push("}").as_slice(), [GroundingEvent::Object(_)]));
        assert_eq!(parser.push(", {\"point_2d\": [1, 2]"), []);
        assert!(matches!(parser.push("}]\n").as_slice(), [GroundingEvent::Object(_)]));
        assert_eq!(parser.push("``` Done"), [GroundingEvent::Text(" Done".into())]);
    }

    /// A long answer in JSON streams.
    #[test]
    fn ordinary_json_is_not_held_back() {
        let text = |raw: &str| {
            let events = GroundingParser::new(Family::Qwen3Vl, &[]).push(raw);
            events
                .into_iter()
                .map(|event| if let GroundingEvent::Text(text) = event { text } else { panic!("{event:?}") })
                .collect::<String>()
        };
        let nested = "```json\n{\"persons\": [{\"name\": \"Bo";
        assert_eq!(text(nested), nested);
        assert_eq!(text("[{\"name\": \"Bob\"}, {\"na"), "[{\"name\": \"Bob\"}");
        let long = format!("{{\"story\": \"{}", "é ".repeat(1500));
        assert_eq!(text(&long), long);
        let late = format!("[{long}\", \"bbox_2d\": [1, 2, 3, 4]}}, {{\"bbox_2d\": [5, 6, 7, 8]}}]");
        let grounded = parse_grounding(Family::Qwen3Vl, &late, &[], "");
        assert_eq!(grounded.text, late.replace(", {\"bbox_2d\": [5, 6, 7, 8]}", ""));
        assert_eq!(grounded.objects.len(), 1);
        // The limit counts bytes of UTF-8.
        for (length, count) in [(4096, 1), (4097, 0)] {
            let before = format!("{{\"label\": \"猫{}\", \"bbox_2d\"", "x".repeat(length - "{\"label\": \"猫\", \"bbox_2d\"".len()));
            assert_eq!(before.len(), length);
            let record = format!("[{before}: [1, 2, 3, 4]}}]");
            assert_eq!(parse_grounding(Family::Qwen3Vl, &record, &[], "").objects.len(), count, "{length} bytes");
        }
        // After the coordinates a name may be long.
        let name = format!("{{\"bbox_2d\": [1, 2, 3, 4], \"text_content\": \"{}\"}}", "é ".repeat(3000));
        assert_eq!(parse_grounding(Family::Qwen3Vl, &name, &[], "").objects.len(), 1);
    }

    #[test]
    fn deep_nesting_and_long_lists_end() {
        for raw in
            ["[".repeat(100_000), "[{\"a\":".repeat(20_000), "`".repeat(100_000), format!("[{}", "1".repeat(100_000)), "[1,".repeat(50_000)]
        {
            assert_eq!(parse_grounding(Family::Qwen3Vl, &raw, &[], "").text, raw);
        }
    }

    #[test]
    fn an_answer_may_begin_inside_json() {
        let pictures = NumberedPicture::in_order(&SIZES[..1]);
        let prompt = "<|im_start|>user\n```python [{\"bbox_2d\": [1, 2<|im_end|>\n<|im_start|>assistant\n";
        for (begun, rest) in [
            ("", "[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"the cat\"}]"),
            ("```json\n[\n", "{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"the cat\"}]\n```"),
            ("```js", "on\n[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"the cat\"}]\n```"),
            ("[{\"label\": \"the cat\", \"bbox_2d\": [1", ", 2, 3, 4]}]"),
            ("Cats: [{\"bbox_2d\": [0, 0, 0, 0]}, {\"label\": \"the", " cat\", \"bbox_2d\": [1, 2, 3, 4]}]"),
        ] {
            let mut parser = GroundingParser::new(Family::Qwen3Vl, &pictures).continuing(&format!("{prompt}{begun}"));
            let mut events = parser.push(&format!("{rest} ok"));
            events.extend(parser.finish());
            let [GroundingEvent::Object(object), GroundingEvent::Text(text)] = events.as_slice() else { panic!("{begun}: {events:?}") };
            assert_eq!((object.reference.as_deref(), object.range, text.as_str()), (Some("the cat"), [0, 0], " ok"));
            assert_eq!(object.norm, Shape::Box([1, 2, 3, 4]));
        }
        // What belongs to the prompt is not in the text.
        let mut parser = GroundingParser::new(Family::Qwen3Vl, &[]).continuing("```json\n[{\"name\": \"B");
        assert_eq!(parser.push("ob\"}]\n"), [GroundingEvent::Text("ob\"}]\n".into())]);
        assert_eq!(parser.push("```."), [GroundingEvent::Text("```.".into())]);
        assert_eq!(parser.finish(), []);
    }

    #[test]
    fn an_answer_may_begin_inside_a_box() {
        let mut parser =
            GroundingParser::new(Family::QwenVl, &NumberedPicture::in_order(&SIZES)).continuing("<img>a.png</img><ref>the cat</ref><box>");
        let events = parser.push("(1,2),(3,4)</box>");
        let [GroundingEvent::Object(object)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((object.reference.as_deref(), object.range), (Some("the cat"), [0, 0]));
        assert_eq!(parser.push("ok"), [GroundingEvent::Text("ok".into())]);
    }

    #[test]
    fn an_answer_may_begin_inside_a_name() {
        let mut parser =
            GroundingParser::new(Family::QwenVl, &NumberedPicture::in_order(&SIZES)).continuing("<box>(1,2),(3,4)</box> What is <ref>");
        let events = parser.push("a cat</ref><box>(1,2),(3,4)</box>");
        let [GroundingEvent::Text(_), GroundingEvent::Object(object)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((object.reference.as_deref(), object.range), (Some("a cat"), [0, 5]));
    }
}
