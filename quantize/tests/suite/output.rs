//! Nothing of the user's is lost: the places of the output folder, and what it may replace.

use crate::support::{assert_names, checkpoint, copy, single};
use quantize::{Input, Options, WriteOptions};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every file below a folder, with its bytes.
fn everything(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(everything(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

fn run(source: Input, out: &Path, force: bool) -> Result<quantize::Summary, String> {
    let mut options = Options::of(source, out);
    options.write.force = force;
    quantize::convert(&options, &mut |_| ()).map_err(|error| format!("{error:#}"))
}

/// A conversion that must be refused, with and without force, and change nothing below `root`.
fn refused(root: &Path, source: &Input, out: &Path, parts: &[&str]) {
    let before = everything(root);
    for force in [false, true] {
        let error = run(source.clone(), out, force).err().unwrap_or_else(|| panic!("{} was written to", out.display()));
        assert_names(&error, parts);
        assert!(!error.contains("--force"), "force would not help: {error}");
        assert_eq!(everything(root), before, "{} with force {force}", out.display());
    }
}

/// A folder with a source in `models/chat`.
fn models() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    let chat = models.join("chat");
    fs::create_dir_all(&chat).unwrap();
    for entry in fs::read_dir(checkpoint("mini-a")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, chat.join(path.file_name().unwrap())).unwrap();
    }
    fs::write(models.join("notes.txt"), "notes").unwrap();
    (root, models, chat)
}

#[test]
fn the_source_is_never_replaced() {
    let (root, models, chat) = models();
    let folder = Input::Folder(chat.clone());
    let same = ["is the folder of the source", "choose another output folder"];
    for path in [chat.clone(), chat.join(""), chat.join("."), chat.join("../chat"), models.join("new/../chat")] {
        refused(root.path(), &folder, &path, &same);
    }
    for path in [models.clone(), root.path().to_owned(), models.join("chat/..")] {
        refused(root.path(), &folder, &path, &["contains the source", "choose another output folder"]);
    }
    // Files one by one, of which one is elsewhere.
    let elsewhere = root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(chat.join("config.json"), elsewhere.join("config.json")).unwrap();
    let files = [&chat, &elsewhere].into_iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let files = Input::from_paths(&files.collect::<Vec<_>>()).unwrap();
    refused(root.path(), &files, &chat, &same);
    refused(root.path(), &files, &elsewhere, &same);
    refused(root.path(), &files, &models, &["contains the source"]);
    // The temporary names.
    for name in ["out.partial", "out.replaced"] {
        let source = models.join(name);
        fs::rename(&chat, &source).unwrap();
        fs::rename(elsewhere.join("config.json"), source.join("config.json")).ok();
        refused(root.path(), &Input::Folder(source.clone()), &models.join("out"), &["out.", "is the folder of the source"]);
        fs::rename(&source, &chat).unwrap();
    }
    // Inside the source nothing is lost.
    run(Input::Folder(chat.clone()), &chat.join("web"), false).unwrap();
    run(Input::Folder(chat.clone()), &chat.join("web"), true).unwrap();
}

#[cfg(unix)]
#[test]
fn links_do_not_hide_the_source() {
    use std::os::unix::fs::symlink;
    let (root, models, chat) = models();
    let link = root.path().join("link");
    symlink(&chat, &link).unwrap();
    refused(root.path(), &Input::Folder(chat.clone()), &link, &["is the folder of the source"]);
    refused(root.path(), &Input::Folder(link.clone()), &chat, &["is the folder of the source"]);
    refused(root.path(), &Input::Folder(link.clone()), &models, &["contains the source"]);
    // A source of links, as in the cache of Hugging Face: the files are elsewhere.
    let snapshot = root.path().join("snapshot");
    fs::create_dir(&snapshot).unwrap();
    for entry in fs::read_dir(&chat).unwrap() {
        let path = entry.unwrap().path();
        symlink(&path, snapshot.join(path.file_name().unwrap())).unwrap();
    }
    refused(root.path(), &Input::Folder(snapshot.clone()), &chat, &["is the folder of the source"]);
    // A link to the output folder stays a link.
    let (web, alias) = (root.path().join("web"), root.path().join("alias"));
    fs::create_dir(&web).unwrap();
    symlink(&web, &alias).unwrap();
    run(Input::Folder(chat), &alias, false).unwrap();
    assert!(fs::symlink_metadata(&alias).unwrap().is_symlink() && web.join("manifest.json").exists());
}

#[test]
fn only_a_web_checkpoint_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let source = || Input::Folder(checkpoint("mini-a"));
    let out = root.path().join("web");
    // A folder of something else.
    fs::create_dir(&out).unwrap();
    fs::write(out.join("index.html"), "a site").unwrap();
    refused(root.path(), &source(), &out, &["holds `index.html`", "is not a web checkpoint", "choose another output folder"]);
    // A manifest of something else.
    fs::write(out.join("manifest.json"), r#"{"name": "an app"}"#).unwrap();
    refused(root.path(), &source(), &out, &["and is not a web checkpoint"]);
    // A file.
    fs::remove_dir_all(&out).unwrap();
    fs::write(&out, "a file").unwrap();
    refused(root.path(), &source(), &out, &["is a file"]);
    fs::remove_file(&out).unwrap();

    // An empty folder counts as none.
    fs::create_dir(&out).unwrap();
    run(source(), &out, false).unwrap();
    // A web checkpoint is replaced only if asked to.
    let first = everything(&out);
    let error = run(Input::Folder(checkpoint("mini-b")), &out, false).unwrap_err();
    assert_names(&error, &["holds a web checkpoint", "--force"]);
    assert_eq!(everything(&out), first);
    run(Input::Folder(checkpoint("mini-b")), &out, true).unwrap();
    assert_ne!(everything(&out), first);
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["web"], "temporary folders are left");
    // One with anything else in it is not.
    fs::write(out.join("thesis.txt"), "a thesis").unwrap();
    refused(root.path(), &source(), &out, &["holds `thesis.txt`, which the web checkpoint there does not list"]);
    fs::remove_file(out.join("thesis.txt")).unwrap();
    fs::create_dir(out.join("NOTICE.d")).unwrap();
    refused(root.path(), &source(), &out, &["holds `NOTICE.d`"]);
}

#[test]
fn a_dry_run_finds_a_wrong_output_folder() {
    let (root, _, chat) = models();
    let before = everything(root.path());
    let mut options = Options::new(&chat, &chat);
    options.dry_run = true;
    let error = format!("{:#}", quantize::convert(&options, &mut |_| ()).unwrap_err());
    assert_names(&error, &["is the folder of the source"]);
    assert_eq!(everything(root.path()), before);
}

#[test]
fn a_foreign_partial_folder_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let (out, partial) = (root.path().join("web"), root.path().join("web.partial"));
    let source = || Input::Folder(checkpoint("mini-a"));
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("thesis.txt"), "a thesis").unwrap();
    refused(root.path(), &source(), &out, &["web.partial", "thesis.txt", "move it away"]);
    // Neither does a file of that name prove anything.
    for marker in ["", "0123456789abcdef", r#"{"quantize": "conversion", "fingerprint": "", "files": ["manifest.json"]}"#] {
        fs::write(partial.join(".conversion"), marker).unwrap();
        refused(root.path(), &source(), &out, &["web.partial", "thesis.txt"]);
    }
    fs::remove_dir_all(&partial).unwrap();
    fs::write(&partial, "a file").unwrap();
    refused(root.path(), &source(), &out, &["web.partial", "not a folder"]);
    fs::remove_file(&partial).unwrap();
    // An empty one is taken.
    fs::create_dir(&partial).unwrap();
    run(source(), &out, false).unwrap();
    assert!(!partial.exists());
}

/// The states between the steps of a replacement, as a crash leaves them.
#[test]
fn an_interrupted_replacement_is_undone_or_finished() {
    let root = tempfile::tempdir().unwrap();
    let (out, replaced) = (root.path().join("web"), root.path().join("web.replaced"));
    let (old, new) = (|| Input::Folder(checkpoint("mini-a")), || Input::Folder(checkpoint("mini-b")));
    let mark = |folder: &Path| fs::write(folder.join(".conversion"), r#"{"quantize":"replaced"}"#).unwrap();
    run(old(), &out, false).unwrap();
    let old_files = everything(&out);

    // A folder of that name without the mark may be the user's: it is found before the work, and kept.
    fs::rename(&out, &replaced).unwrap();
    refused(root.path(), &new(), &out, &["web.replaced exists", "move it away"]);
    // After the first rename: OUT is missing, and the old checkpoint is put back.
    mark(&replaced);
    let before = everything(root.path());
    let error = run(new(), &out, false).unwrap_err();
    assert_names(&error, &["web.replaced holds the web checkpoint", "rename it", "--force"]);
    assert_eq!(everything(root.path()), before);
    let broken = copy("mini-b");
    fs::write(broken.path().join("config.json"), "{").unwrap();
    run(Input::Folder(broken.path().to_owned()), &out, true).unwrap_err();
    assert_eq!(everything(root.path()), before, "a refused source leaves all as it was");
    let summary = run(new(), &out, true).unwrap();
    assert_names(&summary.notes.join("\n"), &["renamed", "back to"]);
    assert!(!replaced.exists());

    // After the second: OUT is the new one, with the marker of its conversion, and the old one is removed.
    run(old(), &replaced, false).unwrap();
    mark(&replaced);
    fs::write(out.join(".conversion"), r#"{"quantize":"conversion","fingerprint":"","files":[]}"#).unwrap();
    let summary = run(old(), &out, true).unwrap();
    assert_names(&summary.notes.join("\n"), &["removed", "web.replaced"]);
    assert!(!replaced.exists());
    let names = |files: BTreeMap<PathBuf, Vec<u8>>| {
        files.into_iter().map(|(path, bytes)| (path.file_name().unwrap().to_owned(), bytes)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(names(everything(&out)), names(old_files));
}

/// The same care where a web checkpoint is the source.
#[test]
fn dequantizing_keeps_its_source() {
    let root = tempfile::tempdir().unwrap();
    let web = root.path().join("web");
    run(Input::Folder(single().path().to_owned()), &web, false).unwrap();
    let before = everything(root.path());
    let mut options = WriteOptions::default();
    options.force = true;
    for (out, part) in [(web.clone(), "is the folder of the source"), (root.path().to_owned(), "contains the source")] {
        let error = format!("{:#}", quantize::dequantized(&web, &out, &options).unwrap_err());
        assert_names(&error, &[part]);
        assert_eq!(everything(root.path()), before);
    }
}
