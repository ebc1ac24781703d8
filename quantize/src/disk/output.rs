//! The output folder: where it may be, what it may replace, and how it appears whole.
//!
//! Four folders take part in a conversion to `OUT`, and no file is deleted that a conversion did not write:
//!
//! - the source, which is only read: `OUT` must not be the source or contain it;
//! - `OUT.partial`, where the files are written. A marker in it proves that it is ours and lists the files that may be there;
//! - `OUT`, which appears by a rename. If it holds an older web checkpoint, `--force` replaces it, unless the folder holds a file that the
//!   checkpoint's manifest does not list;
//! - `OUT.replaced`, the name of that older checkpoint between the two renames. A crash can leave it behind; the next run puts it back if
//!   `OUT` is missing, and removes it if `OUT` is complete.

use super::WriteOptions;
use crate::errors::FinishedShard;
use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::manifest::{FORMAT_NAME, MANIFEST_FILE, Manifest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The marker's file name. Its first line is a [`Marker`]. In `OUT.partial`, further lines are the number of the process that writes there,
/// and the records of finished shards.
const MARKER: &str = ".conversion";
/// Ending of a file that is being written.
const UNFINISHED: &str = ".unfinished";

/// The contents of a marker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "quantize", rename_all = "lowercase")]
enum Marker {
    /// In `OUT.partial`: a conversion is in progress, or was interrupted.
    Conversion {
        /// Runs with equal fingerprints write equal bytes.
        fingerprint: String,
        /// Every file that the conversion writes.
        files: BTreeSet<String>,
    },
    /// In `OUT.replaced`: this checkpoint was moved aside for a newer one.
    Replaced,
}

impl Marker {
    fn read(folder: &Path) -> Option<Self> {
        Self::of(&fs::read_to_string(folder.join(MARKER)).ok()?)
    }

    fn of(text: &str) -> Option<Self> {
        serde_json::from_str(text.lines().next()?).ok()
    }
}

/// The line of a marker about the process that writes to the folder.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    pid: u32,
}

/// The paths of an output folder: absolute, without links, `.` and `..`.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    path: PathBuf,
    partial: PathBuf,
    replaced: PathBuf,
}

/// The temporary folder in which an output folder is made: next to it, so that a rename makes it appear.
pub fn partial_path(out: &Path) -> Result<PathBuf> {
    Ok(Target::resolve(out)?.partial)
}

impl Target {
    /// Resolves an output path. Refuses one that is the source, or contains the source; so for the two temporary folders.
    /// `sources` are the files that are read and the folders that hold them.
    pub(crate) fn new(out: &Path, sources: &[PathBuf]) -> Result<Self> {
        let target = Self::resolve(out)?;
        let mut protected = BTreeSet::new();
        for source in sources {
            let real = fs::canonicalize(source).with_context(|| format!("could not resolve {}", source.display()))?;
            // A link's own folder and the folder of the file that it points to.
            let given_folder = if source.is_dir() { Some(source.as_path()) } else { source.parent() };
            if let Some(folder) = given_folder.map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder }) {
                protected.insert(fs::canonicalize(folder).with_context(|| format!("could not resolve {}", folder.display()))?);
            }
            protected.insert(if real.is_dir() { real } else { real.parent().unwrap_or(&real).to_owned() });
        }
        for (folder, role) in [
            (&target.path, ""),
            (&target.partial, ", the temporary folder of this conversion,"),
            (&target.replaced, ", the temporary name of a replaced folder,"),
        ] {
            for source in &protected {
                let same = |ancestor: &&Path| *ancestor == folder || same_file::is_same_file(ancestor, folder).unwrap_or(false);
                let Some(found) = source.ancestors().find(same) else { continue };
                if found == source {
                    bail!("{}{role} is the folder of the source: choose another output folder", folder.display());
                }
                bail!("{}{role} contains the source {}: choose another output folder", folder.display(), source.display());
            }
        }
        ensure!(
            std::env::current_dir().and_then(fs::canonicalize).ok().as_ref() != Some(&target.path),
            "{} is the current folder, which cannot be replaced: choose another output folder",
            target.path.display()
        );
        Ok(target)
    }

    fn resolve(out: &Path) -> Result<Self> {
        let path = resolve(out)?;
        let name = path.file_name().with_context(|| format!("{} has no name to write under", out.display()))?.to_owned();
        let with = |ending: &str| {
            let mut name = name.clone();
            name.push(ending);
            path.with_file_name(name)
        };
        Ok(Self { partial: with(".partial"), replaced: with(".replaced"), path })
    }

    /// Checks before any work that the conversion can begin and end: that `OUT` may be written, and that the temporary folders are free
    /// or ours. Changes nothing.
    pub(crate) fn check(&self, force: bool) -> Result<()> {
        // While the other process ends, its marker is in OUT.
        for folder in [&self.partial, &self.path] {
            if let Ok(marker) = File::open(folder.join(MARKER)) {
                self.lock(&marker, folder)?;
            }
        }
        let replaced = self.left_over()?;
        // A checkpoint that was moved aside counts as OUT: `recover` puts it back.
        match Occupant::of(&self.path)? {
            Occupant::Nothing if replaced => {
                ensure!(
                    force,
                    "{} holds the web checkpoint that an interrupted run was replacing: rename it to {} to keep it, or use --force to \
                     replace it",
                    self.replaced.display(),
                    self.path.display()
                );
            }
            Occupant::Nothing => {}
            Occupant::Checkpoint(_) => ensure!(
                force,
                "{} holds a web checkpoint: choose another output folder, or use --force to replace this one",
                self.path.display()
            ),
            Occupant::Other(what) => bail!("{} holds {what}: choose another output folder", self.path.display()),
        }
        self.check_partial(Marker::read(&self.partial).as_ref())
    }

    /// Locks a marker until its file is closed, or until this process ends in any way.
    fn lock(&self, marker: &File, folder: &Path) -> Result<()> {
        match marker.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                // Some systems do not let others read a locked file. The number is unknown there.
                let text = fs::read_to_string(folder.join(MARKER)).unwrap_or_default();
                let owner = text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
                let process = owner.map_or("another process".to_owned(), |Owner { pid }| format!("another process (pid {pid})"));
                bail!("{process} is converting into {}: wait until it ends, or choose another output folder", self.path.display())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("could not lock {}", folder.join(MARKER).display())),
        }
    }

    /// True if `OUT.replaced` is there and ours; an error if it is there and may be someone else's.
    fn left_over(&self) -> Result<bool> {
        if fs::symlink_metadata(&self.replaced).is_err() {
            return Ok(false);
        }
        let ours =
            Marker::read(&self.replaced) == Some(Marker::Replaced) && matches!(Occupant::of(&self.replaced), Ok(Occupant::Checkpoint(_)));
        ensure!(
            ours,
            "{} exists, and quantize needs this name while it replaces {}: it is not left over from an interrupted run, so move it away, \
             or choose another output folder",
            self.replaced.display(),
            self.path.display()
        );
        Ok(true)
    }

    /// Undoes or finishes what an interrupted replacement left over. Returns a sentence about it.
    fn recover(&self) -> Result<Option<String>> {
        let note = if self.left_over()? {
            if matches!(Occupant::of(&self.path)?, Occupant::Checkpoint(_)) {
                remove_checkpoint(&self.replaced)?;
                Some(format!("removed {}, left over from an interrupted run that had replaced it", self.replaced.display()))
            } else {
                // `Occupant::Nothing` includes an empty folder.
                let _ = fs::remove_dir(&self.path);
                fs::rename(&self.replaced, &self.path)
                    .with_context(|| format!("could not rename {} back to {}", self.replaced.display(), self.path.display()))?;
                Some(format!(
                    "renamed {} back to {}, as an interrupted run had not replaced it",
                    self.replaced.display(),
                    self.path.display()
                ))
            }
        } else {
            None
        };
        if Marker::read(&self.path).is_some() {
            remove_marker(&self.path)?;
        }
        Ok(note)
    }

    /// Checks that files of these names and sizes fit the disk, if the system reports its free space.
    pub(crate) fn check_space(&self, files: &[(String, u64)]) -> Result<()> {
        // The folders around OUT may not exist yet.
        let folder = self.partial.ancestors().skip(1).find(|folder| folder.is_dir());
        let Some((folder, available)) = folder.and_then(|folder| Some((folder, fs4::available_space(folder).ok()?))) else { return Ok(()) };
        // The files of an interrupted run count as free: they are kept, or removed before the first byte is written.
        let left_over = names_in(&self.partial).unwrap_or_default().into_iter();
        let left_over = left_over.filter_map(|name| fs::metadata(self.partial.join(name)).ok()).map(|metadata| metadata.len());
        refuse_full_disk(folder, files.iter().map(|(_, bytes)| bytes).sum(), left_over.fold(available, u64::saturating_add))
    }

    /// Refuses an `OUT.partial` that is there and, by its marker, not ours.
    fn check_partial(&self, marker: Option<&Marker>) -> Result<()> {
        let partial = &self.partial;
        let Ok(metadata) = fs::symlink_metadata(partial) else { return Ok(()) };
        ensure!(
            metadata.is_dir(),
            "{} exists and is not a folder, and quantize writes its files there first: move it away, or choose another output folder",
            partial.display()
        );
        let others = names_in(partial)?.into_iter().filter(|name| name != MARKER);
        let ours = |name: &OsString| match marker {
            Some(Marker::Conversion { files, .. }) => {
                let name = name.to_string_lossy();
                files.contains(name.strip_suffix(UNFINISHED).unwrap_or(&name)) && !partial.join(&*name).is_dir()
            }
            _ => false,
        };
        if let Some(foreign) = others.into_iter().find(|name| !ours(name)) {
            bail!(
                "{} exists and holds `{}`, which no interrupted conversion left there, and quantize writes its files there first: \
                 move it away, or choose another output folder",
                partial.display(),
                foreign.display()
            );
        }
        Ok(())
    }
}

/// An absolute path without links, `.` and `..`. What does not exist yet is taken as it is written.
fn resolve(path: &Path) -> Result<PathBuf> {
    let mut resolved = PathBuf::new();
    let absolute = std::path::absolute(path).with_context(|| format!("could not resolve `{}`", path.display()))?;
    for component in absolute.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(resolved.pop()),
            Component::Prefix(_) | Component::RootDir => resolved.push(component),
            Component::Normal(_) => {
                resolved.push(component);
                if fs::symlink_metadata(&resolved).is_ok() {
                    resolved = fs::canonicalize(&resolved)
                        .with_context(|| format!("could not resolve {}, is it a link to nothing?", resolved.display()))?;
                }
            }
        }
    }
    Ok(resolved)
}

/// The contents of a folder.
enum Occupant {
    /// No folder, or an empty one.
    Nothing,
    /// A web checkpoint and nothing else: the paths of all its files.
    Checkpoint(Vec<PathBuf>),
    /// Something that is not ours to delete, in words.
    Other(String),
}

impl Occupant {
    fn of(folder: &Path) -> Result<Self> {
        if fs::symlink_metadata(folder).is_err() {
            return Ok(Self::Nothing);
        }
        ensure!(folder.is_dir(), "{} is a file: choose another output folder", folder.display());
        let names = names_in(folder)?;
        if names.is_empty() {
            return Ok(Self::Nothing);
        }
        if names == [MARKER] && Marker::read(folder).is_some() {
            return Ok(Self::Checkpoint(vec![folder.join(MARKER)]));
        }
        let Some(listed) = listed_files(folder) else {
            let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
            return Ok(Self::Other(format!("`{}`{more} and is not a web checkpoint", names[0].display())));
        };
        let marked = Marker::read(folder).is_some();
        let ours = |name: &OsString| {
            let listed = name.to_str().is_some_and(|name| listed.contains(name) || (name == MARKER && marked));
            listed && fs::symlink_metadata(folder.join(name)).is_ok_and(|metadata| !metadata.is_dir())
        };
        if let Some(other) = names.iter().find(|name| !ours(name)) {
            return Ok(Self::Other(format!("`{}`, which the web checkpoint there does not list", other.display())));
        }
        Ok(Self::Checkpoint(names.into_iter().map(|name| folder.join(name)).collect()))
    }
}

/// The files of a web checkpoint by its manifest, in any version of the format; `None` without such a manifest.
fn listed_files(folder: &Path) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Listing {
        format: String,
        files: Vec<Listed>,
        shards: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        file: String,
    }
    let listing: Listing = serde_json::from_slice(&fs::read(folder.join(MANIFEST_FILE)).ok()?).ok()?;
    let files = listing.files.into_iter().chain(listing.shards).map(|entry| entry.file);
    (listing.format == FORMAT_NAME).then(|| files.chain([MANIFEST_FILE.to_owned()]).collect())
}

/// The names in a folder, sorted.
fn names_in(folder: &Path) -> Result<Vec<OsString>> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>();
    let mut names = list().with_context(|| format!("could not list {}", folder.display()))?;
    names.sort();
    Ok(names)
}

/// Removes a web checkpoint file by file, and its folder if that is empty then.
fn remove_checkpoint(folder: &Path) -> Result<()> {
    if let Occupant::Checkpoint(files) = Occupant::of(folder)? {
        // The manifest and the marker last: without them the next run after a crash would not know the folder as ours.
        let last = |file: &&PathBuf| file.ends_with(MANIFEST_FILE) || file.ends_with(MARKER);
        let (ordinary, marks): (Vec<_>, Vec<_>) = files.iter().partition(|file| !last(file));
        // `.conversion` sorts before `manifest.json`, so the marker is removed last.
        for file in ordinary.into_iter().chain(marks.into_iter().rev()) {
            fs::remove_file(file).with_context(|| format!("could not remove {}", file.display()))?;
        }
    }
    fs::remove_dir(folder).with_context(|| format!("could not remove {}", folder.display()))
}

fn remove_marker(folder: &Path) -> Result<()> {
    let marker = folder.join(MARKER);
    fs::remove_file(&marker).with_context(|| format!("could not remove {}", marker.display()))
}

/// Refuses a conversion that will not fit the disk.
fn refuse_full_disk(folder: &Path, needed: u64, available: u64) -> Result<()> {
    ensure!(
        needed <= available,
        "{} has {available} bytes of free space, and the web checkpoint needs {needed}: free some, or choose an output folder on another disk",
        folder.display()
    );
    Ok(())
}

/// A folder under a temporary name, next to the one that it becomes.
#[derive(Debug)]
pub(crate) struct OutputFolder {
    target: Target,
    force: bool,
    /// Locked while this process works on the folder. Records are appended to it.
    marker: Mutex<File>,
    /// Shards of an interrupted run, by name.
    finished: BTreeMap<String, FinishedShard>,
    /// A sentence about an interrupted run that was undone or finished.
    pub(crate) note: Option<String>,
}

impl OutputFolder {
    /// Makes the temporary folder, or takes over that of an interrupted run with the same fingerprint if asked to resume.
    /// `files` are the names and sizes of everything that will be written.
    pub(crate) fn create(target: Target, options: &WriteOptions, fingerprint: &str, files: &[(String, u64)]) -> Result<Self> {
        target.check(options.force)?;
        let note = target.recover()?;
        let partial = &target.partial;
        target.check_space(files)?;
        fs::create_dir_all(partial).with_context(|| format!("could not make {}", partial.display()))?;

        let marker_path = partial.join(MARKER);
        let marker = File::options().read(true).write(true).create(true).truncate(false).open(&marker_path);
        let mut marker = marker.with_context(|| format!("could not write {}", marker_path.display()))?;
        target.lock(&marker, partial)?;
        let mut found = Vec::new();
        marker.read_to_end(&mut found).with_context(|| format!("could not read {}", marker_path.display()))?;
        let found = String::from_utf8_lossy(&found);
        // Again, as another process may have begun and ended meanwhile.
        target.check_partial(Marker::of(&found).as_ref())?;
        let wanted =
            Marker::Conversion { fingerprint: fingerprint.to_owned(), files: files.iter().map(|(name, _)| name.clone()).collect() };
        let same = Marker::of(&found).is_some_and(|found| found == wanted);

        // `check_partial` found nothing here but files of an earlier conversion.
        for name in names_in(partial)?.into_iter().filter(|name| name != MARKER) {
            ensure!(
                !options.resume || same,
                "{} is from a conversion of other files or with other options; without --resume it is started over",
                partial.display()
            );
            if !options.resume {
                let path = partial.join(name);
                fs::remove_file(&path).with_context(|| format!("could not remove {}, left over from an earlier run", path.display()))?;
            }
        }
        let kept = same && options.resume;
        let mut lines = String::new();
        if !kept {
            marker.set_len(0).and_then(|()| marker.rewind()).with_context(|| format!("could not write {}", marker_path.display()))?;
            lines += &serde_json::to_string(&wanted).context("could not describe the conversion")?;
        }
        // A line can be cut off in the middle, so each begins with a line break.
        lines += &format!("\n{}", serde_json::to_string(&Owner { pid: std::process::id() }).context("could not describe the process")?);
        marker
            .write_all(lines.as_bytes())
            .and_then(|()| marker.sync_all())
            .with_context(|| format!("could not write {}", marker_path.display()))?;
        let records = found.lines().filter(|_| kept).filter_map(|line| FinishedShard::from_json(line).ok());
        let finished = records.map(|shard| (shard.entry.file.clone(), shard)).collect();
        Ok(Self { target, force: options.force, marker: Mutex::new(marker), finished, note })
    }

    /// The record of a shard that an interrupted run has finished.
    pub(crate) fn finished(&self, file: &str) -> Option<&FinishedShard> {
        self.finished.get(file)
    }

    /// Writes a shard. Its record comes first: a shard without one would be made again.
    pub(crate) fn write_shard(&self, shard: &FinishedShard, bytes: &[u8]) -> Result<()> {
        let line = format!("\n{}", shard.to_json()?);
        let mut marker = self.marker.lock().unwrap_or_else(PoisonError::into_inner);
        let write = marker.write_all(line.as_bytes()).and_then(|()| marker.sync_all());
        drop(marker);
        write.with_context(|| format!("could not write {}", self.path_of(MARKER).display()))?;
        self.write(&shard.entry.file, bytes)
    }

    /// The path of a file of the folder.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.target.partial.join(name)
    }

    /// Writes a file whole or not at all: under another name, to the disk, then renamed.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (unfinished, finished) = (self.path_of(&format!("{name}{UNFINISHED}")), self.path_of(name));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &finished)
        };
        write().with_context(|| format!("could not write {} ({} bytes)", finished.display(), bytes.len()))
    }

    /// Writes the manifest after checking it as a reader would.
    pub(crate) fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        manifest.validate().context("the converter made a manifest that it would not read")?;
        let json = serde_json::to_string(manifest).context("could not write the manifest as JSON")?;
        self.write(MANIFEST_FILE, json.as_bytes())
    }

    /// Makes the folder appear under its name. After a crash between any two of these steps, the next run finds a state that it knows.
    pub(crate) fn finish(self) -> Result<()> {
        let Target { path, partial, replaced } = &self.target;
        // Locked to the end. Windows does not move folders with open files.
        let _locked = (!cfg!(windows)).then_some(self.marker);
        sync_folder(partial)?;
        let mut moved = false;
        match Occupant::of(path)? {
            Occupant::Nothing if path.exists() => {
                fs::remove_dir(path).with_context(|| format!("could not remove the empty folder {}", path.display()))?;
            }
            Occupant::Nothing => {}
            Occupant::Checkpoint(_) if self.force => {
                let json = serde_json::to_vec(&Marker::Replaced).context("could not describe the replacement")?;
                fs::write(path.join(MARKER), json).with_context(|| format!("could not write to {}", path.display()))?;
                fs::rename(path, replaced).with_context(|| format!("could not move {} to {}", path.display(), replaced.display()))?;
                moved = true;
            }
            _ => bail!("{} was filled by another program meanwhile; the finished checkpoint is in {}", path.display(), partial.display()),
        }
        fs::rename(partial, path).with_context(|| format!("could not rename {} to {}", partial.display(), path.display()))?;
        remove_marker(path)?;
        if let Some(parent) = path.parent() {
            sync_folder(parent)?;
        }
        if moved { remove_checkpoint(replaced) } else { Ok(()) }
    }
}

/// Makes the names in a folder durable, where the system can.
fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("could not sync {}", folder.display()))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T>(result: Result<T>) -> String {
        format!("{:#}", result.err().expect("an error"))
    }

    #[test]
    fn paths_are_resolved_component_by_component() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(root.join("a")).unwrap();
        for path in ["a", "a/", "./a", "a/../a", "new/../a", "a/b/.."] {
            assert_eq!(resolve(&root.join(path)).unwrap(), root.join("a"), "{path}");
        }
        assert_eq!(resolve(&root.join("new/b")).unwrap(), root.join("new/b"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("a", root.join("link")).unwrap();
            std::os::unix::fs::symlink("nowhere", root.join("dangling")).unwrap();
            assert_eq!(resolve(&root.join("link/b")).unwrap(), root.join("a/b"));
            assert_eq!(resolve(&root.join("link/..")).unwrap(), root);
            assert!(error(resolve(&root.join("dangling"))).contains("a link to nothing"));
        }
        assert!(error(Target::new(Path::new("."), &[])).contains("the current folder"));
        assert!(error(Target::resolve(Path::new("/"))).contains("no name"));
    }

    #[test]
    fn a_full_disk_is_known_before_the_first_byte() {
        assert!(refuse_full_disk(Path::new("out"), 100, 100).is_ok());
        let text = error(refuse_full_disk(Path::new("out"), 100, 99));
        assert!(text.contains("out has 99 bytes of free space") && text.contains("needs 100"), "{text}");

        // A disk that has free space, but less than any number can be. The folder does not exist yet.
        let folder = tempfile::tempdir().unwrap();
        let target = Target::new(&folder.path().join("new/web"), &[]).unwrap();
        assert!(target.check_space(&[("a".to_owned(), 1)]).is_ok());
        let text = error(target.check_space(&[("a".to_owned(), u64::MAX - 1), ("b".to_owned(), 1)]));
        assert!(text.contains("bytes of free space, and the web checkpoint needs 18446744073709551615"), "{text}");
    }
}
