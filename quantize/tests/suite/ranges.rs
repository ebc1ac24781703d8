//! The converter as a browser runs it: its host supplies the ranges of the files that it asks for.

use quantize::{ConversionRequest, FinishedShard, Need, RemoteConversion, RemoteFile, Step};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of a folder and of the folders in it, as a host lists them.
pub struct Listed {
    pub place: PathBuf,
    /// Paths with slashes, and contents.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Listed {
    pub fn read(folder: &Path) -> Self {
        let mut files = Vec::new();
        for path in entries(folder) {
            let name = name_of(&path);
            if path.is_file() {
                files.push((name, fs::read(&path).unwrap()));
            } else {
                let inner = entries(&path).into_iter().filter(|path| path.is_file());
                files.extend(inner.map(|path| (format!("{name}/{}", name_of(&path)), fs::read(&path).unwrap())));
            }
        }
        Self { place: folder.to_owned(), files }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// A conversion of listed files.
pub struct Remote<'a> {
    pub listed: &'a Listed,
    pub conversion: RemoteConversion,
    /// Ranges that were asked for since the last shard began.
    pub asked: Vec<Need>,
    /// Records of the progress since the last shard began, at the places where it can resume.
    pub records: Vec<String>,
}

impl<'a> Remote<'a> {
    /// Opens a conversion. `settings` is a request without a source.
    pub fn open(listed: &'a Listed, settings: &ConversionRequest) -> anyhow::Result<Self> {
        let files = listed.files.iter();
        let request = ConversionRequest {
            name: name_of(&listed.place),
            place: listed.place.display().to_string(),
            files: files.map(|(path, bytes)| RemoteFile { path: path.clone(), bytes: bytes.len() as u64, version: "1".into() }).collect(),
            ..settings.clone()
        };
        let mut remote = Self { listed, conversion: RemoteConversion::new(&request)?, asked: Vec::new(), records: Vec::new() };
        while let Step::Needs = remote.conversion.open()? {
            remote.fetch();
        }
        Ok(remote)
    }

    /// Supplies what the next step needs, which must be something.
    fn fetch(&mut self) {
        let needs = self.conversion.needs();
        assert!(!needs.is_empty(), "bytes are missing, and none are asked for");
        for need in needs {
            let bytes = self.listed.files[need.file].1[need.start as usize..need.end as usize].to_vec();
            self.conversion.supply(need.file, need.start, bytes).unwrap();
            self.asked.push(need);
        }
    }

    /// Makes a shard from `stored` on, of which there is a record. Returns the bytes after the place where it resumes, that place, and the
    /// finished shard.
    pub fn shard(&mut self, index: usize, stored: &[u8], record: Option<&str>) -> anyhow::Result<(Vec<u8>, usize, FinishedShard)> {
        self.asked.clear();
        self.records.clear();
        let resumed = self.conversion.begin(index, stored.len() as u64, record)? as usize;
        for piece in stored[..resumed].chunks(1000) {
            self.conversion.restore(piece)?;
        }
        let mut made = Vec::new();
        loop {
            match self.conversion.next_piece()? {
                Step::Needs => self.fetch(),
                Step::Done(Some(piece)) => {
                    made.extend(piece);
                    self.records.extend(self.conversion.progress()?);
                }
                Step::Done(None) => break,
            }
        }
        Ok((made, resumed, self.conversion.finish()?))
    }
}

/// The result of a conversion: its files, and sentences about it.
pub struct Made {
    pub files: BTreeMap<String, Vec<u8>>,
    pub notes: Vec<String>,
}

/// Converts listed files.
pub fn convert(listed: &Listed, settings: &ConversionRequest) -> anyhow::Result<Made> {
    let mut remote = Remote::open(listed, settings)?;
    let plan = remote.conversion.plan()?;
    let (mut files, mut shards) = (BTreeMap::new(), Vec::new());
    for (index, planned) in plan.shards.into_iter().enumerate() {
        let (made, _, shard) = remote.shard(index, &[], None)?;
        files.insert(planned.file, made);
        shards.push(shard);
    }
    files.insert("manifest.json".to_owned(), remote.conversion.manifest(&shards)?.into_bytes());
    files.extend(remote.conversion.small_files(&shards)?.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into_owned())));
    Ok(Made { files, notes: plan.notes })
}
