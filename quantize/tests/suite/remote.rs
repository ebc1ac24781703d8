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
            remote.shard(index, &[], None).unwrap();
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
        let (whole, from, finished) = remote.shard(index, &[], None).unwrap();
        assert_eq!(from, 0);
        let all: u64 = remote.asked.iter().map(|need| need.end - need.start).sum();
        let records = remote.records.clone();
        let bytes_of = |record: &str| serde_json::from_str::<serde_json::Value>(record).unwrap()["bytes"].as_u64().unwrap() as usize;
        assert_eq!(bytes_of(&records[records.len() - 1]), whole.len());
        for stored in (0..=whole.len()).step_by(whole.len() / 7) {
            // A host keeps the record of the last commit, and bytes behind it.
            let record = records.iter().rev().find(|record| bytes_of(record) <= stored);
            let (made, resumed, again) = remote.shard(index, &whole[..stored], record.map(String::as_str)).unwrap();
            assert_eq!(resumed, record.map_or(0, |record| bytes_of(record)));
            assert!(made == whole[resumed..] && again == finished, "shard {index} from byte {stored} on");
            let asked: u64 = remote.asked.iter().map(|need| need.end - need.start).sum();
            assert!(asked <= all && (resumed < whole.len() || asked == 0), "{asked} bytes of {all} for the rest from {resumed} on");
            places += usize::from(resumed > 0);
        }
        // A finished shard is read again with its own record.
        let (made, resumed, again) = remote.shard(index, &whole, Some(&finished.to_json().unwrap())).unwrap();
        assert!(made.is_empty() && resumed == whole.len() && again == finished);
    }
    assert!(places > shards, "{places} places in {shards} shards were resumed");
}

/// Records that are damaged, of other bytes, or of the versions before errors were measured: nothing panics, and the shard is made again.
#[test]
fn a_shard_without_a_sound_record_begins_anew() {
    let listed = Listed::read(&checkpoint("mini-b"));
    let mut remote = Remote::open(&listed, &ConversionRequest { shard_bytes: Some(400_000), ..ConversionRequest::default() }).unwrap();
    let scheme = "q4z in groups of 32";
    let shards = remote.conversion.plan().unwrap().shards.len();
    let mut made = (0..shards).map(|index| {
        let (whole, _, finished) = remote.shard(index, &[], None).unwrap();
        remote.records.pop();
        let progress = remote.records.iter().find(|record| record.contains(scheme)).cloned();
        (index, whole, finished.to_json().unwrap(), progress)
    });
    let found = made.find_map(|(index, whole, finished, progress)| Some((index, whole, finished, progress?)));
    let (index, whole, finished, progress) = found.expect("a shard has two tensors in q4");
    assert!(remote.conversion.finished(index, &finished).is_ok());
    assert!(remote.conversion.finished(index - 1, &finished).is_err(), "it is the record of another shard");

    let edit = |record: &str, edit: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::from_str(record).unwrap();
        edit(&mut value);
        value.to_string()
    };
    let sums = serde_json::from_str::<serde_json::Value>(&progress).unwrap()["errors"][0].clone();
    let bits = |number: f64| format!("{:016x}", number.to_bits());
    type Edit<'a> = &'a dyn Fn(&mut serde_json::Value);
    let edits: [Edit<'_>; 9] = [
        &|record| drop(record.as_object_mut().unwrap().remove("errors")),
        &|record| record["errors"] = serde_json::json!([]),
        &|record| record["errors"][0]["error"] = bits(f64::NAN).into(),
        &|record| record["errors"][0]["weight"] = bits(f64::INFINITY).into(),
        &|record| record["errors"][0]["error"] = bits(-1.0).into(),
        &|record| record["errors"][0]["error"] = "none".into(),
        &|record| record["errors"].as_array_mut().unwrap().push(sums.clone()),
        &|record| record["bytes"] = (record["bytes"].as_u64().unwrap() + 1).into(),
        &|record| record["bytes"] = u64::MAX.into(),
    ];
    let begin = |remote: &mut Remote<'_>, record: &str| remote.conversion.begin(index, whole.len() as u64, Some(record)).unwrap();
    assert!(begin(&mut remote, &progress) > 0 && begin(&mut remote, &finished) == whole.len() as u64);
    for damage in edits {
        for record in [&finished, &progress] {
            let record = edit(record, damage);
            assert_eq!(begin(&mut remote, &record), 0, "{record}");
        }
        assert!(remote.conversion.finished(index, &edit(&finished, damage)).is_err());
    }
    for record in ["", "1234", "{", "null", &finished[..finished.len() / 2], &progress[..progress.len() / 2]] {
        assert_eq!(begin(&mut remote, record), 0, "{record}");
        assert!(remote.conversion.finished(index, record).is_err());
    }
    assert!(remote.conversion.finished(index, &edit(&finished, &|record| record["sha256"] = "0".into())).is_err());
    assert!(remote.conversion.finished(index, &edit(&finished, &|record| record["pieces"]["sha256"] = serde_json::json!([]))).is_err());
    // Fewer bytes than the record says.
    assert_eq!(remote.conversion.begin(index, whole.len() as u64 - 1, Some(&finished)).unwrap(), 0);
}
