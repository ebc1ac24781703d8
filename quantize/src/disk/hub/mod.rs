//! Checkpoints in repositories of the Hugging Face Hub: their files are downloaded into the Hub's cache, or read by ranges.
//!
//! `hf-hub` knows the places of the cache and the addresses of the Hub. Its own download (0.5.0, `Api::metadata`) sends the token to the
//! server that the Hub redirects to, so `remote` makes the requests for files, with the same HTTP client.

mod cache;
mod http;
mod remote;

use super::Event;
use crate::hub_answers::{ListedFile, Listing, encoded};
use crate::source::{Files, InputFile};
use anyhow::{Context, Result, anyhow, ensure};
use cache::{Blob, HubFile};
use hf_hub::{Cache, Repo, RepoType};
use http::{Client, Failure, Retries, Token};
use remote::{RemoteFile, Windows};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A checkpoint in a repository of the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubSource {
    /// `OWNER/NAME`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// True to read by ranges and keep no file on the disk.
    pub stream: bool,
}

/// Beginning of a source in the Hub.
const SCHEME: &str = "hf:";
/// The Hub without `HF_ENDPOINT`.
const ENDPOINT: &str = "https://huggingface.co";
/// Requests for a listing before it fails.
const LIST_ATTEMPTS: u32 = 3;
/// Upper bound for a listing, bytes.
const LIST_BYTES: u64 = 64 << 20;

impl HubSource {
    /// Parses `hf:OWNER/NAME[@REVISION]`; `None` for other texts.
    ///
    /// # Errors
    /// For a text that begins with `hf:` and does not continue so.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Some(address) = text.strip_prefix(SCHEME) else { return Ok(None) };
        let (repository, revision) = address.split_once('@').unwrap_or((address, "main"));
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains("..") && plain(part);
        ensure!(
            repository.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name)) && revision.split('/').all(part),
            "the source is `{text}`, expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION"
        );
        Ok(Some(Self { repository: repository.to_owned(), revision: revision.to_owned(), stream: false }))
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.repository.clone(), RepoType::Model, self.revision.clone())
    }

    /// The repository's folder in the cache. It may not exist.
    pub(crate) fn cache_folder(&self) -> PathBuf {
        cache().path().join(self.repo().folder_name())
    }

    /// Lists the files of the revision, and pins it to its commit.
    pub(crate) fn open(&self, events: &mut dyn FnMut(Event)) -> Result<Hub> {
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.trim().is_empty());
        let endpoint = endpoint.as_deref().unwrap_or(ENDPOINT).trim().trim_end_matches('/').to_owned();
        let client = Arc::new(Client::new(&endpoint, token(), self.clone())?);
        let Listing { commit: sha, files: listed } = self.list(&client)?;
        let note = format!("{self} is at commit {sha}");
        events(Event::Note(note.clone()));

        let place = format!("{SCHEME}{}@{sha}", self.repository);
        let pinned = Repo::with_revision(self.repository.clone(), RepoType::Model, sha.clone());
        let (cached, windows) = (cache().repo(self.repo()), Arc::new(Windows::default()));
        if !self.stream && self.revision != sha {
            cached.create_ref(&sha).with_context(|| format!("could not write to {}", self.cache_folder().display()))?;
        }
        let mut folders: BTreeMap<String, Vec<InputFile>> = BTreeMap::new();
        let mut files = BTreeMap::new();
        for (number, ListedFile { path, bytes: len, id, sha256 }) in listed.into_iter().enumerate() {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let url = format!("{endpoint}/{}/resolve/{sha}/{}", pinned.url(), encoded(&path));
            let remote = RemoteFile::new(client.clone(), format!("{place}/{path}"), url, len, sha256.clone());
            let blob = (!self.stream && folder.is_empty()).then(|| Blob {
                path: cached.blob_path(&id),
                pointer: cached.pointer_path(&sha).join(name),
                sha256,
            });
            let file = Arc::new(HubFile::new(remote, windows.clone(), number, blob, is_small(name)));
            folders.entry(folder.to_owned()).or_default().push(InputFile::new(name, format!("{place}/{path}"), len, id, file.clone()));
            if folder.is_empty() {
                files.insert(name.to_owned(), file);
            }
        }
        let own = folders.remove("").unwrap_or_default();
        let below = folders.into_iter().map(|(folder, files)| Files::new(&*folder, format!("{place}/{folder}"), files, Vec::new()));
        let below = below.collect();
        let listed = Files::new(&self.repository, place, own, below);
        Ok(Hub { listed, note, files, windows, folder: (!self.stream).then(|| self.cache_folder()) })
    }

    /// Requests the commit and the files of the revision.
    fn list(&self, client: &Client) -> Result<Listing> {
        let builder = hf_hub::api::sync::ApiBuilder::from_cache(cache()).with_endpoint(client.endpoint.clone());
        let token = client.token.as_ref().map(|token| token.text.clone());
        let api = builder.with_token(token).build().context("could not prepare requests to the Hub")?;
        let repo = api.repo(self.repo());
        let mut retries = Retries::new(LIST_ATTEMPTS);
        let body = loop {
            let request = repo.info_request().query("blobs", "true").config().http_status_as_error(false);
            // The token must not follow a redirect, and a repository with another name is another source.
            let request = request.max_redirects(0).max_redirects_will_error(false);
            let sent = request.timeout_connect(Some(http::CONNECT)).timeout_per_read(Some(http::READ)).build().call();
            let answer = sent.map_err(|error| http::failed(&client.endpoint, error)).and_then(|response| {
                let status = response.status();
                if status.is_success() {
                    let body = response.into_body().into_with_config().limit(LIST_BYTES).read_to_vec();
                    return body.map_err(|error| http::failed(&client.endpoint, error));
                }
                if status.is_redirection() {
                    let location = response.headers().get("location").and_then(|location| location.to_str().ok()).unwrap_or_default();
                    return Err(Failure::Final(anyhow!("the Hub redirects {self} to `{location}`: give its new name")));
                }
                Err(client.refusal(status, response.headers(), &self.to_string()))
            });
            match answer {
                Ok(body) => break body,
                Err(failure) => retries.again(failure).map_err(|error| self.without_the_hub(error))?,
            }
        };
        Listing::parse(&body, &client.endpoint, &self.to_string())
    }

    /// Adds the copy in the cache to an error of the connection.
    fn without_the_hub(&self, error: anyhow::Error) -> anyhow::Error {
        let cached = cache().repo(self.repo()).get("config.json");
        let cached = cached.as_ref().and_then(|path| path.parent()).filter(|_| error.chain().any(|cause| cause.is::<ureq::Error>()));
        match cached {
            Some(folder) => error.context(format!("to convert the copy in the cache, give {}", folder.display())),
            None => error,
        }
    }
}

impl fmt::Display for HubSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{SCHEME}{}", self.repository)?;
        if self.revision == "main" { Ok(()) } else { write!(formatter, "@{}", self.revision) }
    }
}

/// The Hub's cache: of `HF_HUB_CACHE`, of `HF_HOME`, or in the home folder.
fn cache() -> Cache {
    match std::env::var_os("HF_HUB_CACHE").filter(|folder| !folder.is_empty()) {
        Some(folder) => Cache::new(folder.into()),
        None => Cache::from_env(),
    }
}

/// The token of `HF_TOKEN`, or the one that `hf auth login` left.
fn token() -> Option<Token> {
    let variable = std::env::var("HF_TOKEN").ok().map(|text| Token { text: text.trim().to_owned(), from: "HF_TOKEN".to_owned() });
    let of_file = || {
        let cache = Cache::from_env();
        Some(Token { text: cache.token()?, from: cache.token_path().display().to_string() })
    };
    variable.filter(|token| !token.text.is_empty()).or_else(of_file)
}

/// True for files that are downloaded whole when their first byte is read.
fn is_small(name: &str) -> bool {
    !name.ends_with(".safetensors") && !name.ends_with(".bin")
}

/// A revision of a repository.
#[derive(Debug)]
pub(crate) struct Hub {
    pub listed: Files,
    /// A sentence about the commit.
    pub note: String,
    /// The files of its top folder.
    files: BTreeMap<String, Arc<HubFile>>,
    windows: Arc<Windows>,
    /// The repository's folder in the cache; `None` if no file is kept.
    folder: Option<PathBuf>,
}

impl Hub {
    /// Downloads files into the cache that are not there yet. Does nothing if no file is kept.
    pub(crate) fn fetch<'a>(&self, files: impl Iterator<Item = &'a InputFile>, events: &mut dyn FnMut(Event)) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let missing: Vec<&Arc<HubFile>> = files.filter_map(|file| self.files.get(file.name())).filter(|file| !file.is_cached()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let bytes = missing.iter().map(|file| file.missing()).sum();
        let disk = folder.ancestors().find(|folder| folder.is_dir());
        if let Some((disk, free)) = disk.and_then(|disk| Some((disk, fs4::available_space(disk).ok()?))) {
            ensure!(
                bytes <= free,
                "{} has {free} bytes of free space, and the download needs {bytes}: free some, set HF_HOME to a folder on another disk, or use \
                 --stream",
                disk.display()
            );
        }
        events(Event::Fetch { bytes });
        for file in missing {
            file.fetch(&mut |bytes| events(Event::Fetched(bytes)))?;
        }
        self.windows.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_repositories() {
        let parsed = |text: &str| HubSource::parse(text).unwrap().map(|source| (source.repository, source.revision));
        let of = |repository: &str, revision: &str| Some((repository.to_owned(), revision.to_owned()));
        assert_eq!(parsed("hf:Qwen/Qwen3-VL-2B-Instruct"), of("Qwen/Qwen3-VL-2B-Instruct", "main"));
        assert_eq!(parsed("hf:a/b@v1.0"), of("a/b", "v1.0"));
        assert_eq!(parsed("hf:a/b@refs/pr/5"), of("a/b", "refs/pr/5"));
        assert_eq!(parsed("folder/hf:a"), None);
        let wrong_names = ["hf:", "hf:a", "hf:a/", "hf:/b", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b c", "hf:a/b?x"];
        for text in wrong_names.into_iter().chain(["hf:a/b@", "hf:a/b@x@y", "hf:a/b@../x"]) {
            let error = HubSource::parse(text).expect_err(text);
            assert!(error.to_string().contains("expected hf:OWNER/NAME"), "{error}");
        }
    }
}
