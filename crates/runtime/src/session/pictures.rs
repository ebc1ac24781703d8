//! The features of the latest pictures, kept so that the next question about them needs no encoding.

use super::request::PictureInfo;
use qwen_vl_processor::PictureGrid;

/// Number of pictures that are kept by default, in addition to held ones: 4 MiB each at the published size. A step of a video counts as one.
const KEPT: usize = 16;

/// A picture or a video with its features.
#[derive(Debug, Clone)]
pub(super) struct EncodedImage<F> {
    pub(super) info: PictureInfo,
    /// One entry for a picture, the steps of a video.
    pub(super) steps: Vec<(PictureGrid, F)>,
}

/// Pictures and videos by their id. Held ones stay until they are released; of the others, the latest stay, up to `kept` pictures and steps, but
/// at least one if any is kept.
#[derive(Debug)]
pub(super) struct Pictures<F> {
    /// The latest picture is the last.
    entries: Vec<Entry<F>>,
    kept: usize,
}

#[derive(Debug)]
struct Entry<F> {
    image: EncodedImage<F>,
    /// Number of holds that are not released.
    holds: usize,
}

impl<F: Clone> Pictures<F> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), kept: KEPT }
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.entries.iter().any(|entry| entry.image.info.id == id)
    }

    /// Returns a picture and makes it the latest.
    pub(super) fn get(&mut self, id: &str) -> Option<EncodedImage<F>> {
        let at = self.entries.iter().position(|entry| entry.image.info.id == id)?;
        let entry = self.entries.remove(at);
        let image = entry.image.clone();
        self.entries.push(entry);
        Some(image)
    }

    /// Adds a picture as the latest, in place of one with the same id.
    pub(super) fn insert(&mut self, image: EncodedImage<F>) {
        self.put(image, 0);
    }

    /// Adds a picture, if it is not there, and holds it until [`Self::release`]. Every hold needs a release.
    pub(super) fn hold(&mut self, image: EncodedImage<F>) {
        self.put(image, 1);
    }

    fn put(&mut self, image: EncodedImage<F>, new_holds: usize) {
        let at = self.entries.iter().position(|entry| entry.image.info.id == image.info.id);
        let holds = at.map_or(0, |at| self.entries.remove(at).holds);
        self.entries.push(Entry { image, holds: holds + new_holds });
        self.forget();
    }

    /// Ends one hold of a picture.
    pub(super) fn release(&mut self, id: &str) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.image.info.id == id) {
            entry.holds = entry.holds.saturating_sub(1);
        }
        self.forget();
    }

    /// Sets the number of pictures to keep in addition to held ones.
    pub(super) fn keep(&mut self, count: usize) {
        self.kept = count;
        self.forget();
    }

    /// Drops the oldest pictures that are not held.
    fn forget(&mut self) {
        let size = |entry: &Entry<F>| if entry.holds == 0 { entry.image.steps.len() } else { 0 };
        let latest = self.entries.iter().rposition(|entry| entry.holds == 0).filter(|_| self.kept > 0);
        let mut surplus = self.entries.iter().map(size).sum::<usize>().saturating_sub(self.kept);
        let mut index = 0;
        self.entries.retain(|entry| {
            let dropped = size(entry) > 0 && surplus > 0 && Some(index) != latest;
            surplus = surplus.saturating_sub(if dropped { size(entry) } else { 0 });
            index += 1;
            !dropped
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str) -> EncodedImage<()> {
        video(id, 1)
    }

    fn video(id: &str, steps: usize) -> EncodedImage<()> {
        let info = PictureInfo { id: id.to_owned(), width: 1, height: 1, seen: [14, 14], tokens: steps, frames: 2 * steps };
        EncodedImage { info, steps: vec![(PictureGrid::still([1, 1], 1, 14), ()); steps] }
    }

    fn ids(pictures: &Pictures<()>) -> Vec<&str> {
        pictures.entries.iter().map(|entry| entry.image.info.id.as_str()).collect()
    }

    #[test]
    fn a_held_picture_stays_even_if_no_others_are_kept() {
        let mut pictures = Pictures::new();
        pictures.keep(0);
        pictures.insert(image("a"));
        assert!(!pictures.contains("a"));
        pictures.hold(image("a"));
        assert!(pictures.contains("a"));
        // An encoding of the same picture for a question does not end the hold.
        pictures.insert(image("a"));
        pictures.insert(image("b"));
        assert_eq!(ids(&pictures), ["a"]);
        pictures.release("a");
        assert!(!pictures.contains("a"));
    }

    #[test]
    fn a_picture_that_is_held_twice_needs_two_releases() {
        let mut pictures = Pictures::new();
        pictures.keep(0);
        pictures.hold(image("a"));
        pictures.hold(image("a"));
        pictures.release("a");
        assert!(pictures.contains("a"));
        pictures.release("a");
        assert!(!pictures.contains("a"));
        pictures.release("a");
        pictures.hold(image("a"));
        assert!(pictures.contains("a"), "a release without a hold counts for nothing");
    }

    #[test]
    fn the_oldest_picture_goes_first_and_use_makes_one_the_latest() {
        let mut pictures = Pictures::new();
        pictures.keep(2);
        for id in ["a", "b"] {
            pictures.insert(image(id));
        }
        assert!(pictures.get("a").is_some() && pictures.get("z").is_none());
        pictures.insert(image("c"));
        assert_eq!(ids(&pictures), ["a", "c"]);
    }

    #[test]
    fn the_steps_of_a_video_count_and_the_latest_one_always_stays() {
        let mut pictures = Pictures::new();
        pictures.keep(4);
        ["a", "b"].into_iter().for_each(|id| pictures.insert(image(id)));
        pictures.insert(video("c", 3));
        assert_eq!(ids(&pictures), ["b", "c"]);
        pictures.insert(video("d", 9));
        assert_eq!(ids(&pictures), ["d"]);
        pictures.insert(image("e"));
        assert_eq!(ids(&pictures), ["e"]);
    }
}
