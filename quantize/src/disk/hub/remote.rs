//! A file of the Hub that is read by ranges.

use super::http::{self, Client, Failure, Retries};
use crate::hub_answers::answered;
use anyhow::{Context, Result, anyhow};
use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode};

/// Failed requests without a byte in between before a read fails.
const ATTEMPTS: u32 = 6;
/// Redirects from an address to the file.
const REDIRECTS: u32 = 5;

/// A file at an address of the Hub, which answers with the bytes, or with a redirect to a signed address of another server. That address is
/// used again until it is refused.
#[derive(Debug)]
pub(super) struct RemoteFile {
    client: Arc<Client>,
    place: String,
    url: String,
    pub len: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    signed: Option<String>,
    /// ETag of the signed address.
    signed_etag: Option<String>,
    /// ETag of the Hub's answers.
    etag: Option<String>,
    /// The Hub's ETag of the file behind a redirect: SHA-256 of a large file.
    linked_etag: Option<String>,
}

impl RemoteFile {
    pub(super) fn new(client: Arc<Client>, place: String, url: String, len: u64, sha256: Option<String>) -> Self {
        let state = Mutex::new(State { linked_etag: sha256, ..State::default() });
        Self { client, place, url, len, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a range and passes its bytes on in order. A broken connection is continued at the byte where it broke.
    pub(super) fn read(&self, range: Range<u64>, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (mut at, mut retries) = (range.start, Retries::new(ATTEMPTS));
        let mut buffer = vec![0; 64 << 10];
        while at < range.end {
            let failure = match self.request(&(at..range.end)) {
                Err(failure) => failure,
                Ok(response) => {
                    let mut body = response.into_body().into_reader();
                    loop {
                        let room = buffer.len().min((range.end - at) as usize);
                        match body.read(&mut buffer[..room]) {
                            _ if room == 0 => return Ok(()),
                            Ok(0) => break Failure::again(anyhow!("the connection ended after byte {at}")),
                            Ok(count) => {
                                take(&buffer[..count])?;
                                at += count as u64;
                                retries.reset();
                            }
                            Err(error) => break Failure::again(anyhow!("the connection broke after byte {at}: {error}")),
                        }
                    }
                }
            };
            retries.again(failure).with_context(|| format!("could not fetch {}", self.place))?;
        }
        Ok(())
    }

    /// Requests a range, whose bytes are the response's body.
    fn request(&self, range: &Range<u64>) -> Result<Response<Body>, Failure> {
        let signed = self.state().signed.clone();
        if let Some(url) = signed {
            let response = self.client.get(&url, range)?;
            if response.status().is_success() {
                return self.checked(response, range, &url);
            }
            if let Some(failure) = http::passing(response.status(), response.headers(), &self.place) {
                return Err(failure);
            }
            // Expired: servers answer with 400, 401, 403, 404 or 410. Another thread may have the next one.
            let mut state = self.state();
            if state.signed.as_ref() == Some(&url) {
                state.signed = None;
            }
        }
        let mut url = self.url.clone();
        for _ in 0..REDIRECTS {
            let response = self.client.get(&url, range)?;
            let (status, headers) = (response.status(), response.headers());
            let hub = self.client.is_hub(&url);
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                if hub {
                    self.compare(|state| &mut state.linked_etag, etag(headers, "x-linked-etag"))?;
                }
                let location = headers.get("location").and_then(|location| location.to_str().ok());
                let target = location.and_then(|location| http::redirected(&url, location));
                url = target.ok_or_else(|| {
                    Failure::Final(anyhow!("{} redirects {} to an address that cannot be used", http::server(&url), self.place))
                })?;
            } else if status.is_success() {
                if !hub {
                    let mut state = self.state();
                    (state.signed, state.signed_etag) = (Some(url.clone()), None);
                }
                return self.checked(response, range, &url);
            } else if hub {
                return Err(self.client.refusal(status, headers, &self.place));
            } else {
                let failure = http::passing(status, headers, &self.place);
                let refused = || anyhow!("{} refuses {} with status {}", http::server(&url), self.place, status.as_u16());
                return Err(failure.unwrap_or_else(|| Failure::Again { wait: None, error: refused() }));
            }
        }
        Err(Failure::Final(anyhow!("{} is behind more than {REDIRECTS} redirects", self.place)))
    }

    /// Checks that a response has the bytes of a range of this file.
    fn checked(&self, response: Response<Body>, range: &Range<u64>, url: &str) -> Result<Response<Body>, Failure> {
        let headers = response.headers();
        if self.client.is_hub(url) {
            self.compare(|state| &mut state.linked_etag, etag(headers, "x-linked-etag"))?;
            self.compare(|state| &mut state.etag, etag(headers, "etag"))?;
        } else {
            self.compare(|state| &mut state.signed_etag, etag(headers, "etag"))?;
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match answered(response.status().as_u16(), header("content-range"), header("content-length"), range, self.len) {
            Some(len) if len == self.len => Ok(response),
            Some(len) => Err(Failure::Final(anyhow!("{} has {len} bytes, the Hub lists {}: run again", self.place, self.len))),
            None => Err(Failure::Final(anyhow!(
                "{} does not answer with the bytes {} to {} of {}, but with others: is there a proxy in between?",
                http::server(url),
                range.start,
                range.end,
                self.place
            ))),
        }
    }

    /// Refuses an ETag that differs from the former one.
    fn compare(&self, slot: impl Fn(&mut State) -> &mut Option<String>, found: Option<String>) -> Result<(), Failure> {
        let mut state = self.state();
        let (known, Some(found)) = (slot(&mut state), found) else { return Ok(()) };
        match known {
            Some(known) if *known != found => {
                Err(Failure::Final(anyhow!("{} changed while it was read: its ETag was `{known}` and is `{found}`; run again", self.place)))
            }
            _ => {
                *known = Some(found);
                Ok(())
            }
        }
    }
}

/// An ETag without its quotes.
fn etag(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?;
    Some(text.trim_start_matches("W/").trim_matches('"').to_owned())
}

/// Bytes that are fetched at once.
pub(super) const WINDOW: u64 = 4 << 20;
/// Windows in memory, over all files and threads: 192 MiB.
const WINDOWS: usize = 48;

/// The windows of remote files that were read last. Each begins at a multiple of [`WINDOW`], and threads share them.
#[derive(Debug, Default)]
pub(super) struct Windows(Mutex<Pool>);

#[derive(Debug, Default)]
struct Pool {
    reads: u64,
    /// By file and number, with the time of the last read.
    windows: HashMap<(usize, u64), (u64, Arc<Window>)>,
}

/// Bytes, once they are fetched. Locked while they are.
type Window = Mutex<Option<Vec<u8>>>;

impl Windows {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops all windows.
    pub(super) fn clear(&self) {
        self.pool().windows.clear();
    }

    /// Fills `buffer` from byte `offset` on. `file` is the file's number in the pool.
    pub(super) fn read(&self, file: usize, remote: &RemoteFile, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let number = offset / WINDOW;
            let window = self.window((file, number));
            let mut held = window.lock().unwrap_or_else(PoisonError::into_inner);
            let start = number * WINDOW;
            if held.is_none() {
                let range = start..(start + WINDOW).min(remote.len);
                let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
                remote
                    .read(range, &mut |part| {
                        bytes.extend_from_slice(part);
                        Ok(())
                    })
                    .map_err(io::Error::other)?;
                *held = Some(bytes);
            }
            let from = held.as_deref().and_then(|bytes| bytes.get((offset - start) as usize..)).unwrap_or_default();
            let count = from.len().min(buffer.len());
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = buffer.split_at_mut(count);
            now.copy_from_slice(&from[..count]);
            (buffer, offset) = (later, offset + count as u64);
        }
        Ok(())
    }

    /// The window of a key. A new one takes the place of the one that was not read for the longest time.
    fn window(&self, key: (usize, u64)) -> Arc<Window> {
        let mut pool = self.pool();
        pool.reads += 1;
        let now = pool.reads;
        if let Some((read, window)) = pool.windows.get_mut(&key) {
            *read = now;
            return window.clone();
        }
        if pool.windows.len() >= WINDOWS
            && let Some(oldest) = pool.windows.iter().min_by_key(|(_, (read, _))| *read).map(|(key, _)| *key)
        {
            pool.windows.remove(&oldest);
        }
        let window = Arc::<Window>::default();
        pool.windows.insert(key, (now, window.clone()));
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_window_is_dropped() {
        let windows = Windows::default();
        let first = windows.window((0, 0));
        for number in 1..WINDOWS as u64 {
            windows.window((0, number));
        }
        assert!(Arc::ptr_eq(&first, &windows.window((0, 0))), "it was read again, so the second is the oldest");
        windows.window((1, 0));
        let pool = windows.pool();
        assert_eq!(pool.windows.len(), WINDOWS);
        assert!(pool.windows.contains_key(&(0, 0)) && !pool.windows.contains_key(&(0, 1)));
    }
}
