//! Conversions of files that are fetched range by range, against those of folders.

use crate::support::{checkpoint, convert};
use quantize::{ConversionRequest, Need, RemoteConversion, RemoteFile, SchemeName, Step};
use std::path::Path;

/// The files of a folder, and a conversion of them in small shards.
struct Remote {
    files: Vec<(String, Vec<u8>)>,
    conversion: RemoteConversion,
    /// Ranges that were asked for since the last shard began.
    asked: Vec<Need>,
}

impl Remote {
    fn open(folder: &Path, shard_bytes: Option<u64>) -> Self {
        let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        let listed = files.iter().map(|(path, bytes)| RemoteFile { path: path.clone(), bytes: bytes.len() as u64, version: "1".into() });
        let request = ConversionRequest {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            place: "hf:test".into(),
            files: listed.collect(),
            shard_bytes,
            ..ConversionRequest::default()
        };
        let conversion = RemoteConversion::new(&request).unwrap();
        let mut remote = Self { files, conversion, asked: Vec::new() };
        while let Step::Needs = remote.conversion.open().unwrap() {
            remote.fetch();
        }
        remote
    }

    /// Supplies what the next step needs, which must be something.
    fn fetch(&mut self) {
        let needs = self.conversion.needs();
        assert!(!needs.is_empty(), "bytes are missing, and none are asked for");
        for need in needs {
            let bytes = self.files[need.file].1[need.start as usize..need.end as usize].to_vec();
            self.conversion.supply(need.file, need.start, bytes).unwrap();
            self.asked.push(need);
        }
    }

    /// Makes a shard from `stored` on: the bytes after the place where it can resume, that place, and the manifest entry's hash.
    fn shard(&mut self, index: usize, stored: &[u8]) -> (Vec<u8>, usize, String) {
        self.asked.clear();
        let resumed = self.conversion.begin(index, stored.len() as u64).unwrap() as usize;
        stored[..resumed].chunks(1000).for_each(|piece| self.conversion.restore(piece).unwrap());
        let mut made = Vec::new();
        loop {
            match self.conversion.next_piece().unwrap() {
                Step::Needs => self.fetch(),
                Step::Done(Some(piece)) => made.extend(piece),
                Step::Done(None) => break,
            }
        }
        (made, resumed, self.conversion.finish().unwrap().sha256)
    }
}

#[test]
fn ranges_give_what_the_folder_gives() {
    for name in ["mini-a", "mini-b", "q2-a", "q3-a"] {
        let (out, _) = convert(&checkpoint(name), SchemeName::Q4).unwrap();
        let mut remote = Remote::open(&checkpoint(name), None);
        let planned = remote.conversion.plan().unwrap();
        let mut entries = Vec::new();
        for (index, planned) in planned.shards.iter().enumerate() {
            let (made, ..) = remote.shard(index, &[]);
            assert!(made == std::fs::read(out.path().join("web").join(&planned.file)).unwrap(), "{name}: {}", planned.file);
            // Each byte is fetched at most once, and from weight files alone.
            let asked: u64 = remote.asked.iter().map(|need| need.end - need.start).sum();
            let weights = remote.files.iter().filter(|(name, _)| name.ends_with(".safetensors") || name.ends_with(".bin"));
            let all: u64 = weights.map(|(_, bytes)| bytes.len() as u64).sum();
            assert!(asked <= all, "{name}: {asked} bytes of {all} were asked for");
            entries.push(qwen_vl_format::manifest::FileEntry::of_shard(&planned.file, &made));
        }
        let manifest = remote.conversion.manifest(entries).unwrap();
        assert_eq!(manifest, std::fs::read_to_string(out.path().join("web/manifest.json")).unwrap(), "{name}");
    }
}

#[test]
fn a_shard_resumes_behind_whole_parts() {
    let mut remote = Remote::open(&checkpoint("mini-b"), Some(400_000));
    let shards = remote.conversion.plan().unwrap().shards.len();
    assert!(shards > 2, "{shards} shards");
    let mut places = 0;
    for index in 0..shards {
        let (whole, from, hash) = remote.shard(index, &[]);
        assert_eq!(from, 0);
        let all: u64 = remote.asked.iter().map(|need| need.end - need.start).sum();
        for stored in (0..=whole.len()).step_by(whole.len() / 7) {
            let (made, resumed, again) = remote.shard(index, &whole[..stored]);
            assert!(resumed <= stored, "{resumed} of {stored} bytes are kept");
            assert!(made == whole[resumed..] && again == hash, "shard {index} from byte {stored} on");
            let asked: u64 = remote.asked.iter().map(|need| need.end - need.start).sum();
            assert!(asked <= all && (resumed < whole.len() || asked == 0), "{asked} bytes of {all} for the rest from {resumed} on");
            places += usize::from(resumed > 0);
        }
    }
    assert!(places > shards, "{places} places in {shards} shards were resumed");
}
