//! Which ranges a conversion of remote files asks for, and where it resumes. That it makes the bytes of the folder is asserted in every
//! test: see [`crate::support::run`].

use crate::ranges::{Listed, Remote};
use crate::support::checkpoint;
use quantize::ConversionRequest;

#[test]
fn each_byte_is_fetched_at_most_once() {
    for name in ["mini-a", "mini-b", "q2-a", "q3-a"] {
        let listed = Listed::read(&checkpoint(name));
        let mut remote = Remote::open(&listed, &ConversionRequest::default()).unwrap();
        let is_weights = |name: &str| name.ends_with(".safetensors") || name.ends_with(".bin");
        let all: u64 = listed.files.iter().filter(|(name, _)| is_weights(name)).map(|(_, bytes)| bytes.len() as u64).sum();
        for index in 0..remote.conversion.plan().unwrap().shards.len() {
            remote.shard(index, &[]).unwrap();
            assert!(remote.asked.iter().all(|need| is_weights(&listed.files[need.file].0)), "{name}: other files than weights are read");
            let asked: u64 = remote.asked.iter().map(|need| need.end - need.start).sum();
            assert!(asked <= all, "{name}: {asked} bytes of {all} were asked for");
        }
    }
}

#[test]
fn a_shard_resumes_behind_whole_parts() {
    let listed = Listed::read(&checkpoint("mini-b"));
    let mut remote = Remote::open(&listed, &ConversionRequest { shard_bytes: Some(400_000), ..ConversionRequest::default() }).unwrap();
    let shards = remote.conversion.plan().unwrap().shards.len();
    assert!(shards > 2, "{shards} shards");
    let mut places = 0;
    for index in 0..shards {
        let (whole, from, entry) = remote.shard(index, &[]).unwrap();
        assert_eq!(from, 0);
        let all: u64 = remote.asked.iter().map(|need| need.end - need.start).sum();
        for stored in (0..=whole.len()).step_by(whole.len() / 7) {
            let (made, resumed, again) = remote.shard(index, &whole[..stored]).unwrap();
            assert!(resumed <= stored, "{resumed} of {stored} bytes are kept");
            assert!(made == whole[resumed..] && again == entry, "shard {index} from byte {stored} on");
            let asked: u64 = remote.asked.iter().map(|need| need.end - need.start).sum();
            assert!(asked <= all && (resumed < whole.len() || asked == 0), "{asked} bytes of {all} for the rest from {resumed} on");
            places += usize::from(resumed > 0);
        }
    }
    assert!(places > shards, "{places} places in {shards} shards were resumed");
}
