//! Repositories of the Hub as sources, at a stand-in for the Hub and for the server that it redirects to.

use crate::support::{assert_names, checkpoint};
use qwen_vl_format::ShardHash;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

const REPOSITORY: &str = "owner/tuned";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_token";

/// The repository, and what the servers do.
#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// Address of the second server.
    store: String,
    /// The token that may read the repository; all may if it is empty.
    token: &'static str,
    gated: bool,
    /// Number of requests for files that are answered with each of these statuses.
    busy: Vec<u16>,
    /// Requests that a signed address serves. It has expired after that.
    uses: BTreeMap<String, u32>,
    uses_of_new: Option<u32>,
    /// Number of answers of the second server that end in the middle.
    cut: u32,
    /// True to answer each request to the second server with another ETag.
    other_etags: bool,
    /// True to serve the whole file for every range.
    no_ranges: bool,
    /// True to serve other bytes from the second server.
    damaged: bool,
    /// The requests: server, path, and token if there was one.
    log: Vec<(&'static str, String, Option<String>)>,
}

struct Hub {
    address: String,
    state: Arc<Mutex<State>>,
    /// The Hub's cache.
    home: tempfile::TempDir,
}

type Serve = fn(&mut State, &str, Option<(usize, usize)>, Option<&str>) -> Answer;

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes of the body that are sent.
    sent: usize,
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: impl Into<Vec<u8>>) -> Answer {
    let body = body.into();
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Answer { status, headers, sent: body.len(), body }
}

/// The bytes of a range.
fn part(bytes: &[u8], range: Option<(usize, usize)>, etag: &str) -> Answer {
    let Some((first, last)) = range else { return answer(200, &[("ETag", etag)], bytes) };
    let last = last.min(bytes.len().saturating_sub(1));
    if first > last || bytes.is_empty() {
        return answer(416, &[], "");
    }
    let range = format!("bytes {first}-{last}/{}", bytes.len());
    answer(206, &[("ETag", etag), ("Content-Range", &range)], &bytes[first..=last])
}

fn is_large(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".bin")
}

fn hash(path: &str, bytes: &[u8]) -> String {
    let hash = ShardHash::of(bytes);
    if is_large(path) { hash } else { hash[..40].to_owned() }
}

fn serve_hub(state: &mut State, path: &str, range: Option<(usize, usize)>, token: Option<&str>) -> Answer {
    let known = token.is_none_or(|token| token == TOKEN || token == "hf_other");
    if !known {
        return answer(401, &[("X-Error-Message", "Invalid credentials in Authorization header")], "{}");
    }
    let not_found = [("X-Error-Code", "RepoNotFound")];
    let unreadable = !state.token.is_empty() && token != Some(state.token);
    if let Some(path) = path.strip_prefix("/api/models/") {
        if path.starts_with("owner/old/") {
            return answer(307, &[("Location", &format!("{}/api/models/{REPOSITORY}", state.store))], "");
        }
        let Some(revision) = path.strip_prefix("owner/tuned/revision/").filter(|_| !unreadable || state.gated) else {
            return answer(if token.is_some() { 404 } else { 401 }, &not_found, "{}");
        };
        let Some(revision) = revision.strip_suffix("?blobs=true") else { return answer(400, &[], "blobs") };
        if !["main", "v1%2Ffirst", COMMIT].contains(&revision) {
            return answer(404, &[("X-Error-Code", "RevisionNotFound")], "{}");
        }
        let siblings: Vec<Value> = state
            .files
            .iter()
            .map(|(path, bytes)| {
                let lfs = json!({"sha256": hash(path, bytes), "size": bytes.len(), "pointerSize": 134});
                let file = json!({"rfilename": path, "size": bytes.len(), "blobId": hash("", path.as_bytes())});
                let mut file =
                    if is_large(path) { file } else { json!({"rfilename": path, "size": bytes.len(), "blobId": hash(path, bytes)}) };
                if is_large(path) {
                    file["lfs"] = lfs;
                }
                file
            })
            .collect();
        return answer(200, &[], json!({"sha": COMMIT, "siblings": siblings}).to_string());
    }
    if let Some(status) = state.busy.pop() {
        return answer(status, &[("Retry-After", "0")], "busy");
    }
    let (direct, path) = match path.strip_prefix("/direct/") {
        Some(path) => (true, path),
        None => (false, path.strip_prefix(&format!("/{REPOSITORY}/resolve/{COMMIT}/")).expect("a file of the commit")),
    };
    if unreadable {
        return answer(if token.is_some() { 403 } else { 401 }, &[("X-Error-Code", "GatedRepo")], "{}");
    }
    let bytes = &state.files[path];
    let etag = format!("\"{}\"", hash(path, bytes));
    match (is_large(path), direct) {
        (true, _) => {
            let signed = format!("/{path}?signature={}", state.uses.len());
            state.uses.insert(signed.clone(), state.uses_of_new.unwrap_or(u32::MAX));
            answer(302, &[("Location", &(state.store.clone() + &signed)), ("X-Linked-ETag", &etag), ("ETag", "\"of-the-pointer\"")], "")
        }
        // As the Hub does: to another address on the same server.
        (false, false) => answer(307, &[("Location", &format!("/direct/{path}")), ("X-Linked-ETag", &etag)], ""),
        (false, true) => part(bytes, range, &etag),
    }
}

fn serve_store(state: &mut State, path: &str, range: Option<(usize, usize)>, _: Option<&str>) -> Answer {
    match state.uses.get_mut(path) {
        Some(uses) if *uses > 0 => *uses -= 1,
        _ => return answer(403, &[], "expired"),
    }
    let name = path.trim_start_matches('/').split('?').next().unwrap();
    let mut bytes = state.files[name].clone();
    if state.damaged {
        *bytes.last_mut().unwrap() ^= 1;
    }
    let etag = if state.other_etags { format!("\"{}\"", state.log.len()) } else { "\"in-the-store\"".to_owned() };
    let mut answer = part(&bytes, range.filter(|_| !state.no_ranges), &etag);
    if state.cut > 0 {
        state.cut -= 1;
        answer.sent = answer.body.len() / 2;
    }
    answer
}

/// Serves one request of a connection.
fn respond(stream: TcpStream, server: &'static str, state: &Mutex<State>, serve: Serve) -> std::io::Result<()> {
    let mut lines = BufReader::new(&stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let Some(path) = first.strip_prefix("GET ").and_then(|rest| rest.strip_suffix(" HTTP/1.1")) else { return Ok(()) };
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let token = headers.get("authorization").map(|value| value.strip_prefix("Bearer ").expect("a bearer token").to_owned());
    let range = headers.get("range").map(|range| {
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    });
    let answer = {
        let mut state = state.lock().unwrap();
        state.log.push((server, path.to_owned(), token.clone()));
        serve(&mut state, path, range, token.as_deref())
    };
    let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n", answer.status, answer.body.len());
    answer.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    (&stream).write_all((head + "\r\n").as_bytes())?;
    (&stream).write_all(&answer.body[..answer.sent])
}

/// Starts a server, which runs until the process ends. Returns its address.
fn start(server: &'static str, state: &Arc<Mutex<State>>, serve: Serve) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let state = state.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let state = state.clone();
            // A client that closes its connection early is not a problem.
            std::thread::spawn(move || respond(stream.unwrap(), server, &state, serve).ok());
        }
    });
    address
}

impl Hub {
    /// A repository with the files of a fixture and some that no conversion reads.
    fn new(model: &str) -> Self {
        let mut files: BTreeMap<String, Vec<u8>> = fs::read_dir(checkpoint(model))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect();
        files.insert("README.md".to_owned(), b"---\nlicense: apache-2.0\nbase_model: Qwen/Other\n---\n# A fine-tune\n".to_vec());
        files.insert("LICENSE".to_owned(), b"Apache License, Version 2.0".to_vec());
        files.insert("training.log".to_owned(), b"loss".to_vec());
        files.insert(".gitattributes".to_owned(), b"*.bin filter=lfs".to_vec());
        files.insert("original/consolidated.00.bin".to_owned(), vec![0; 1000]);
        if model != "mini-a" {
            files.insert("pytorch_model.bin".to_owned(), vec![0; 1000]);
        }
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let store = start("store", &state, serve_store);
        state.lock().unwrap().store = store;
        Self { address: start("hub", &state, serve_hub), state, home: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The command with the stand-in as the Hub, and without a token.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quantize"));
        command.args(arguments).stdin(Stdio::null()).env("HF_HOME", self.home.path()).env("HF_ENDPOINT", format!("{}/", self.address));
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, token: &str, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        if !token.is_empty() {
            command.env("HF_TOKEN", token);
        }
        command.output().unwrap()
    }

    /// Converts in a new folder, which must succeed.
    fn converted(&self, token: &str, options: &[&str]) -> BTreeMap<String, Vec<u8>> {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("web");
        let done = self.run(token, &[&["hf:owner/tuned", path.to_str().unwrap()], options].concat());
        assert!(done.status.success(), "{}", text(&done.stderr));
        assert_names(&text(&done.stderr), &[&format!("note: hf:owner/tuned is at commit {COMMIT}")]);
        files(&path)
    }

    /// Converts, which must fail. Returns the error.
    fn refused(&self, token: &str, arguments: &[&str]) -> String {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("web");
        let failed = self.run(token, &[arguments, &[path.to_str().unwrap()]].concat());
        assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stderr));
        assert!(!path.exists());
        text(&failed.stderr)
    }

    /// Converts the files as a folder of the Hub's cache.
    fn expected(&self) -> BTreeMap<String, Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = folder.path().join("models--owner--tuned/snapshots").join(COMMIT);
        for (path, bytes) in &self.state().files {
            let path = snapshot.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let out = folder.path().join("web");
        quantize::convert(&quantize::Options::new(&snapshot, &out), &mut |_| ()).unwrap();
        files(&out)
    }

    /// The names of the files that were requested since the last call, with the number of requests to each server.
    fn requested(&self) -> BTreeMap<String, (usize, usize)> {
        let mut requested: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (server, path, _) in std::mem::take(&mut self.state().log) {
            if path.starts_with("/api/") || path.starts_with("/direct/") {
                continue;
            }
            let name = path.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
            let (hub, store) = requested.entry(name).or_default();
            *(if server == "hub" { hub } else { store }) += 1;
        }
        requested
    }

    fn snapshot(&self) -> PathBuf {
        self.home.path().join("hub/models--owner--tuned/snapshots").join(COMMIT)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Compares two folders. (Their bytes are too many to print.)
fn assert_equal(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in found {
        assert!(*bytes == expected[name], "{name}: {} instead of {}", text(bytes), text(&expected[name]));
    }
}

/// The files that a conversion reads.
fn needed(hub: &Hub) -> BTreeSet<String> {
    let unused = ["training.log", ".gitattributes", "original/consolidated.00.bin"];
    let state = hub.state();
    let safetensors = state.files.contains_key("model.safetensors");
    let aside = |name: &str| unused.contains(&name) || (safetensors && name.ends_with(".bin"));
    state.files.keys().filter(|name| !aside(name)).cloned().collect()
}

#[test]
fn a_repository_gives_what_its_folder_gives() {
    for model in ["mini-a", "q2-a", "q3-a"] {
        let hub = Hub::new(model);
        hub.state().token = TOKEN;
        let expected = hub.expected();
        assert_names(&text(&expected["README.md"]), &["license: apache-2.0\nbase_model: owner/tuned\n"]);

        let streamed = hub.converted(TOKEN, &["--stream"]);
        assert_equal(&streamed, &expected);
        assert!(!hub.home.path().join("hub").exists(), "a streamed conversion keeps files");
        let log = std::mem::take(&mut hub.state().log);
        assert!(log.iter().any(|(server, ..)| *server == "store"));
        for (server, path, token) in &log {
            let expected = (*server == "hub").then_some(TOKEN);
            assert_eq!(token.as_deref(), expected, "the token at {server} for {path}");
        }
        hub.state().log = log;
        let sizes: BTreeMap<String, usize> = hub.state().files.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect();
        let requested = hub.requested();
        // A template is not read if the configuration of the tokenizer has it.
        let read: BTreeSet<String> = requested.keys().cloned().collect();
        let needed = needed(&hub);
        assert!(read.is_subset(&needed), "{read:?} of {needed:?}");
        for (name, (hub, store)) in &requested {
            // One request for each window, although a tensor of q2-a has more rows than that.
            let windows = sizes[name].div_ceil(4 << 20);
            assert_eq!((*hub, *store), (1, if is_large(name) { windows } else { 0 }), "requests for {name}");
        }

        let cached = hub.converted(TOKEN, &[]);
        assert_equal(&cached, &expected);
        for (_, path, token) in hub.state().log.iter().filter(|(server, ..)| *server == "store") {
            assert_eq!(*token, None, "the token for {path}");
        }
        assert_eq!(hub.requested().into_keys().collect::<BTreeSet<_>>(), read);
        let snapshot = files(&hub.snapshot());
        assert_eq!(snapshot.keys().cloned().collect::<BTreeSet<_>>(), read);
        for (name, bytes) in &snapshot {
            assert!(*bytes == hub.state().files[name], "{name}");
            let blob = hub.home.path().join("hub/models--owner--tuned/blobs").join(hash(name, bytes));
            assert!(fs::read(blob).unwrap() == *bytes, "{name}");
        }
        assert_eq!(fs::read_to_string(hub.home.path().join("hub/models--owner--tuned/refs/main")).unwrap(), COMMIT);
        // Files of the cache are not requested again, and the cache can be converted like any folder.
        assert_equal(&hub.converted(TOKEN, &[]), &expected);
        assert_eq!(hub.requested(), BTreeMap::new());
        let error = text(&hub.run(TOKEN, &["hf:owner/tuned", hub.home.path().to_str().unwrap()]).stderr);
        assert_names(&error, &["contains the source", "choose another output folder"]);
        assert_eq!(hub.requested(), BTreeMap::new());
    }
}

#[test]
fn a_report_reads_a_repository() {
    let hub = Hub::new("mini-a");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("web");
    let out = out.to_str().unwrap();
    assert!(hub.run("", &[&format!("hf:owner/tuned@{COMMIT}"), out, "--stream", "--scheme", "f32"]).status.success());
    let report = hub.run("", &["report", "hf:owner/tuned@v1/first", out, "--stream", "--json"]);
    assert!(report.status.success(), "{}", text(&report.stderr));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert!(report["tensors"].as_array().unwrap().iter().all(|tensor| tensor["largest"] == 0.0));
    assert!(!hub.home.path().join("hub").exists());
    assert!(hub.run("", &["report", "hf:owner/tuned@v1/first", out]).status.success());
    assert_eq!(fs::read_to_string(hub.home.path().join("hub/models--owner--tuned/refs/v1/first")).unwrap(), COMMIT);
}

#[test]
fn refusals_name_the_next_step() {
    let hub = Hub::new("mini-a");
    for stream in [&[][..], &["--stream"]] {
        let refused = |token: &str, source: &str| hub.refused(token, &[stream, &[source]].concat());
        let page = format!("{}/owner/other", hub.address);
        assert_names(&refused("", "hf:owner/other"), &[&page, "does not exist, or is private", "set HF_TOKEN"]);
        assert_names(&refused(TOKEN, "hf:owner/other"), &[&page, "does not exist, or the token of HF_TOKEN may not read it"]);
        assert_names(&refused("", "hf:owner/tuned@v2"), &["hf:owner/tuned has no revision `v2`", "give a branch, a tag or a commit"]);
        assert_names(
            &refused("hf_wrong", "hf:owner/tuned"),
            &["the Hub refuses the token of HF_TOKEN (status 401)", "Invalid credentials"],
        );
        assert_names(&refused(TOKEN, "hf:owner/old"), &["the Hub redirects hf:owner/old to", REPOSITORY, "give its new name"]);
        for wrong in ["hf:owner", "hf:owner/tuned/config.json", "hf:owner/tuned@"] {
            assert_names(&refused("", wrong), &[wrong, "expected hf:OWNER/NAME"]);
        }
        hub.state().token = TOKEN;
        assert_names(&refused("", "hf:owner/tuned"), &["does not exist, or is private"]);
        hub.state().gated = true;
        assert_names(&refused("", "hf:owner/tuned"), &["hf:owner/tuned is gated", "accept its conditions at", "set HF_TOKEN"]);
        assert_names(&refused("hf_other", "hf:owner/tuned"), &["is gated, and the token of HF_TOKEN has no access"]);
        hub.state().token = "";
        hub.state().gated = false;
    }
    assert!(hub.state().log.iter().all(|(server, ..)| *server == "hub"), "a refused source needs no weights");
    let mini_a = checkpoint("mini-a");
    assert_names(
        &hub.refused("", &["--stream", mini_a.to_str().unwrap()]),
        &["`--stream` reads a repository of the Hub", "expected hf:OWNER/NAME"],
    );
    assert_names(&hub.refused("", &["hf:owner/tuned", mini_a.to_str().unwrap()]), &["hf:owner/tuned is a repository: give nothing else"]);
    // An error of the checkpoint names the file at its commit.
    hub.state().files.remove("qwen.tiktoken");
    assert_names(&hub.refused("", &["hf:owner/tuned"]), &[&format!("is missing in hf:owner/tuned@{COMMIT}")]);
}

/// A token that the Hub's own programs left in the cache.
#[test]
fn the_token_of_the_cache_counts() {
    let hub = Hub::new("mini-a");
    hub.state().token = TOKEN;
    fs::write(hub.home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    hub.converted("", &["--stream"]);
    fs::write(hub.home.path().join("token"), "hf_other").unwrap();
    assert_names(&hub.refused("", &["hf:owner/tuned"]), &["the token of ", "token may not read it"]);
}

#[test]
fn nothing_is_reached() {
    let hub = Hub::new("mini-a");
    let source = ["hf:owner/tuned", "out"];
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = |endpoint: &str| text(&hub.command(&source).env("HF_ENDPOINT", endpoint).output().unwrap().stderr);
    assert_names(&run(&format!("http://{closed}")), &[&format!("could not reach http://{closed}"), "check the connection"]);
    assert_names(&run("huggingface.co"), &["HF_ENDPOINT is `huggingface.co`, expected an address"]);
    hub.converted("", &[]);
    // The copy in the cache can be converted.
    assert_names(
        &run(&format!("http://{closed}")),
        &["could not reach", "to convert the copy in the cache, give", hub.snapshot().to_str().unwrap()],
    );
}

#[test]
fn busy_and_broken_servers_are_asked_again() {
    for stream in [&[][..], &["--stream"]] {
        let hub = Hub::new("q3-a");
        let expected = hub.expected();
        // Two answers that pass, then a connection that breaks: the signed address continues it.
        hub.state().busy = vec![503, 429, 408];
        hub.state().cut = 1;
        assert_equal(&hub.converted("", stream), &expected);
        assert!(hub.state().busy.is_empty() && hub.state().cut == 0);
        // The window with the directory in two requests. In the cache, then the whole file.
        let window_and_file = if stream.is_empty() { 3 } else { 2 };
        assert_eq!(hub.requested()["model.safetensors"], (1, window_and_file), "resolved once");
    }
    // Addresses that expire after one use are resolved anew: for a window that breaks twice, and for the whole file.
    for (stream, resolved) in [(&[][..], 4), (&["--stream"], 3)] {
        let hub = Hub::new("q3-a");
        let expected = hub.expected();
        (hub.state().uses_of_new, hub.state().cut) = (Some(1), 2);
        assert_equal(&hub.converted("", stream), &expected);
        // The second server sees each new address, and before it the old one.
        assert_eq!(hub.requested()["model.safetensors"], (resolved, 2 * resolved - 1));
    }
    // Without an end.
    let hub = Hub::new("mini-a");
    hub.state().busy = vec![503; 1000];
    assert_names(
        &hub.refused("", &["hf:owner/tuned", "--stream"]),
        &["answers with status 503", "gave up after 6 attempts", "pytorch_model.bin.index.json"],
    );
}

#[test]
fn other_bytes_are_refused() {
    let stream = ["hf:owner/tuned", "--stream"];
    let changed = |change: fn(&mut State), arguments: &[&str]| {
        let hub = Hub::new("q3-a");
        change(&mut hub.state());
        let error = hub.refused("", arguments);
        (hub, error)
    };
    // Another ETag after a broken connection.
    let other_etag = |state: &mut State| (state.other_etags, state.cut) = (true, 1);
    for arguments in [&stream[..1], &stream] {
        assert_names(&changed(other_etag, arguments).1, &["model.safetensors changed while it was read", "its ETag was", "run again"]);
        // A server without ranges, asked for the second half.
        let no_ranges = |state: &mut State| (state.no_ranges, state.cut) = (true, 1);
        assert_names(&changed(no_ranges, arguments).1, &["does not answer with the bytes", "model.safetensors", "with others"]);
    }
    // The hash of a download.
    let damaged = |state: &mut State| state.damaged = true;
    let (hub, error) = changed(damaged, &["hf:owner/tuned"]);
    assert_names(&error, &["has SHA-256", "the Hub lists", "run again"]);
    assert!(!hub.snapshot().join("model.safetensors").exists());
}

/// A run that a write error ended is resumed by the other way of reading, as the files have the same hashes.
#[cfg(unix)]
#[test]
fn both_ways_resume_each_other() {
    use std::os::unix::fs::MetadataExt;
    for (first, second) in [("--stream", ""), ("", "--stream")] {
        let hub = Hub::new("mini-a");
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("web");
        let options = ["--scheme", "f32", "--shard-size", "0.02", "--threads", "1"];
        let ways = |way: &'static str| [way].into_iter().filter(|way| !way.is_empty());
        if first.is_empty() {
            // The limit of the first run would end the download too.
            assert!(hub.run("", &["hf:owner/tuned", out.to_str().unwrap(), "--dry-run"]).status.success());
        }
        let arguments: Vec<&str> = ["hf:owner/tuned", out.to_str().unwrap()].into_iter().chain(options).collect();
        let mut limited = Command::new("sh");
        let quantize = hub.command(&[]);
        limited.envs(quantize.get_envs().filter_map(|(name, value)| Some((name, value?))));
        for (name, _) in quantize.get_envs().filter(|(_, value)| value.is_none()) {
            limited.env_remove(name);
        }
        limited.args(["-c", "trap '' XFSZ; ulimit -f 400; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_quantize")]);
        let failed = limited.args(&arguments).args(ways(first)).output().unwrap();
        assert_names(&text(&failed.stderr), &["could not write", "--resume"]);
        let shard = "shard-00000.safetensors";
        let finished = fs::metadata(folder.path().join("web.partial").join(shard)).expect("the first shard is below the limit").ino();

        let all: Vec<&str> = arguments.iter().copied().chain(ways(second)).chain(["--resume"]).collect();
        let done = hub.run("", &all);
        assert!(done.status.success(), "{}", text(&done.stderr));
        assert_eq!(fs::metadata(out.join(shard)).unwrap().ino(), finished, "the shard was written again");
        assert_eq!(quantize::verify(&out, &mut |_| ()).unwrap(), []);
    }
}

/// A download that ended in the middle is continued.
#[test]
fn downloads_are_resumed() {
    let hub = Hub::new("q3-a");
    let name = "model.safetensors";
    let bytes = hub.state().files[name].clone();
    let blobs = hub.home.path().join("hub/models--owner--tuned/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(hash(name, &bytes)).with_extension("part"), &bytes[..3_000_000]).unwrap();
    let expected = hub.expected();
    assert_equal(&hub.converted("", &[]), &expected);
    assert!(fs::read(hub.snapshot().join(name)).unwrap() == bytes);
    // One with other bytes is found by its hash, and the next run succeeds.
    fs::remove_dir_all(&blobs).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(hash(name, &bytes)).with_extension("part"), vec![1; 1_000_000]).unwrap();
    assert_names(&hub.refused("", &["hf:owner/tuned"]), &["has SHA-256", "it was removed, run again"]);
    assert_equal(&hub.converted("", &[]), &expected);
}
