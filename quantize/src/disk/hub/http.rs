//! Requests to the Hub and to the servers that it redirects to, and the reasons to repeat them.

use super::HubSource;
use anyhow::{Context, Result, anyhow};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;
use ureq::http::{HeaderMap, StatusCode, Uri};
use ureq::{Agent, Body, http::Response};

/// Time for a connection to be made.
pub(super) const CONNECT: Duration = Duration::from_secs(30);
/// Time without a byte after which a connection counts as broken.
pub(super) const READ: Duration = Duration::from_secs(60);
/// The first wait between two attempts. Each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(300);
/// The longest wait between two attempts: the Hub counts requests over five minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A token of the Hub.
pub(super) struct Token {
    pub text: String,
    /// The variable or the file that holds it, for messages.
    pub from: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Token(of {})", self.from)
    }
}

/// A failed attempt.
#[derive(Debug)]
pub(super) enum Failure {
    /// A second attempt can succeed, after this time if the server named one.
    Again { wait: Option<Duration>, error: anyhow::Error },
    /// A second attempt cannot succeed.
    Final(anyhow::Error),
}

impl Failure {
    /// A failure that can pass.
    pub(super) fn again(error: anyhow::Error) -> Self {
        Self::Again { wait: None, error }
    }
}

/// Counts failed attempts, and waits between them.
#[derive(Debug)]
pub(super) struct Retries {
    limit: u32,
    failed: u32,
}

impl Retries {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, failed: 0 }
    }

    /// Waits for the next attempt.
    ///
    /// # Errors
    /// The failure, if it is final or the attempts are used up.
    pub(super) fn again(&mut self, failure: Failure) -> Result<()> {
        let (wait, error) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again { wait, error } => (wait, error),
        };
        self.failed += 1;
        if self.failed >= self.limit {
            return Err(error.context(format!("gave up after {} attempts", self.failed)));
        }
        let wait = wait.unwrap_or(FIRST_WAIT * 2u32.pow((self.failed - 1).min(8)));
        std::thread::sleep(wait.min(LONGEST_WAIT));
        Ok(())
    }

    /// Forgets failures, after progress.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }
}

/// Makes requests. The token is sent to the Hub alone.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    pub endpoint: String,
    pub token: Option<Token>,
    source: HubSource,
}

impl Client {
    pub(super) fn new(endpoint: &str, token: Option<Token>, source: HubSource) -> Result<Self> {
        origin(endpoint).with_context(|| format!("HF_ENDPOINT is `{endpoint}`, expected an address such as https://huggingface.co"))?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Each redirect is looked at: the token must not follow it to another server.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("quantize/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(READ))
            .build();
        Ok(Self { agent: config.new_agent(), endpoint: endpoint.to_owned(), token, source })
    }

    /// True for addresses of the Hub itself.
    pub(super) fn is_hub(&self, url: &str) -> bool {
        origin(url).is_some_and(|found| Some(found) == origin(&self.endpoint))
    }

    /// Requests bytes of a file, without following redirects.
    pub(super) fn get(&self, url: &str, range: &Range<u64>) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url).header("Range", format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header("Authorization", format!("Bearer {}", token.text));
        }
        request.call().map_err(|error| failed(server(url), error))
    }

    /// The failure that the Hub's status is.
    ///
    /// # Arguments
    /// * `place` - the file or the repository that was requested
    pub(super) fn refusal(&self, status: StatusCode, headers: &HeaderMap, place: &str) -> Failure {
        if let Some(failure) = passing(status, headers, place) {
            return failure;
        }
        let HubSource { repository, revision, .. } = &self.source;
        let page = format!("{}/{repository}", self.endpoint);
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let token = self.token.as_ref().map(|token| format!("the token of {}", token.from));
        let problem = match (text("x-error-code"), status.as_u16()) {
            (Some("RevisionNotFound"), _) => {
                format!("hf:{repository} has no revision `{revision}`: give a branch, a tag or a commit of {page}")
            }
            (Some("GatedRepo"), _) => match token {
                Some(token) => {
                    format!("hf:{repository} is gated, and {token} has no access: accept its conditions at {page} with that account")
                }
                None => format!("hf:{repository} is gated: accept its conditions at {page}, and set HF_TOKEN to a token of that account"),
            },
            (Some("EntryNotFound"), _) => format!("{place} is missing, although the Hub lists it: run again"),
            (None, 401) if token.is_some() => {
                format!("the Hub refuses {} (status 401): replace it, or remove it for a public repository", token.unwrap_or_default())
            }
            (_, 401 | 404) => match token {
                Some(token) => format!("{page} does not exist, or {token} may not read it: check the name and the account"),
                None => format!("{page} does not exist, or is private: check the name, or set HF_TOKEN to a token that may read it"),
            },
            (_, 403) => format!("the Hub refuses access to {place} (status 403): check that the account of HF_TOKEN may read {page}"),
            (_, status) => format!("the Hub answers with status {status} for {place}"),
        };
        let message = text("x-error-message").map_or_else(String::new, |message| format!(" (the Hub says: {message})"));
        Failure::Final(anyhow!("{problem}{message}"))
    }
}

/// The failure of a status that can pass: a slow or busy server.
pub(super) fn passing(status: StatusCode, headers: &HeaderMap, place: &str) -> Option<Failure> {
    if !matches!(status.as_u16(), 408 | 425 | 429 | 500..=599) {
        return None;
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // The Hub's form of 2025: `RateLimit: "api";r=0;t=55`.
    let limit = || text("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t=")?.parse().ok());
    let seconds = text("retry-after").and_then(|value| value.trim().parse().ok()).or_else(limit);
    let error = anyhow!("the server of {place} answers with status {}: try again later", status.as_u16());
    Some(Failure::Again { wait: seconds.map(Duration::from_secs), error })
}

/// The failure of a request without an answer.
pub(super) fn failed(server: &str, error: ureq::Error) -> Failure {
    use ureq::Error::{BadUri, Http, InvalidProxyUrl, Tls};
    let last = matches!(error, Http(_) | BadUri(_) | InvalidProxyUrl | Tls(_));
    let error = anyhow::Error::new(error).context(format!("could not reach {server}: check the connection"));
    if last { Failure::Final(error) } else { Failure::again(error) }
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri = Uri::from_str(url).ok()?;
    let scheme = uri.scheme_str()?.to_lowercase();
    let port = match (uri.port_u16(), scheme.as_str()) {
        (Some(port), _) => port,
        (None, "https") => 443,
        (None, "http") => 80,
        (None, _) => return None,
    };
    Some((scheme, uri.host()?.to_lowercase(), port))
}

/// Scheme, host and port of an address, for messages: what follows can be a signature.
pub(super) fn server(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or(url, |end| &url[..host + end])
}

/// The address that a redirect leads to; `None` if it is not one, or would leave encryption.
pub(super) fn redirected(from: &str, location: &str) -> Option<String> {
    let scheme = from.split_once("://")?.0;
    let target = if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{}{location}", server(from))
    } else {
        location.to_owned()
    };
    let encrypted = |url: &str| Some(origin(url)?.0 == "https");
    (encrypted(&target)? >= encrypted(from)?).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_encrypted() {
        let from = "https://hub.example/a/resolve/main/b";
        for (location, target) in [
            ("https://cdn.example/x?signature=1", Some("https://cdn.example/x?signature=1")),
            ("/api/resolve-cache/b", Some("https://hub.example/api/resolve-cache/b")),
            ("//cdn.example/x", Some("https://cdn.example/x")),
            ("http://cdn.example/x", None),
            ("ftp://cdn.example/x", None),
            ("b", None),
        ] {
            assert_eq!(redirected(from, location).as_deref(), target, "{location}");
        }
        assert_eq!(redirected("http://127.0.0.1:1/a", "http://127.0.0.1:2/b").as_deref(), Some("http://127.0.0.1:2/b"));
    }

    #[test]
    fn the_token_is_for_the_hub() {
        let source = HubSource::parse("hf:a/b").unwrap().unwrap();
        let token = Token { text: "hf_secret".to_owned(), from: "HF_TOKEN".to_owned() };
        let client = Client::new("https://hub.example", Some(token), source).unwrap();
        assert!(client.is_hub("https://hub.example/a/b") && client.is_hub("https://HUB.example:443/a"));
        for other in
            ["http://hub.example/a", "https://hub.example:8443/a", "https://hub.example.org/a", "https://cdn.hub.example/a", "hub.example"]
        {
            assert!(!client.is_hub(other), "{other}");
        }
        assert!(!format!("{client:?}").contains("hf_secret"));
    }

    #[test]
    fn statuses_that_pass() {
        let wait = |status: u16, header: Option<(&'static str, &str)>| {
            let headers = header.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            match passing(StatusCode::from_u16(status).unwrap(), &headers, "a file") {
                Some(Failure::Again { wait, .. }) => Some(wait.map(|wait| wait.as_secs())),
                other => {
                    assert!(other.is_none(), "{other:?}");
                    None
                }
            }
        };
        assert_eq!(wait(429, Some(("retry-after", "7"))), Some(Some(7)));
        assert_eq!(wait(429, Some(("ratelimit", "\"api\";r=0;t=55"))), Some(Some(55)));
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert_eq!(wait(status, None), Some(None), "{status}");
        }
        for status in [200, 302, 400, 401, 403, 404, 410, 416] {
            assert_eq!(wait(status, Some(("retry-after", "7"))), None, "{status}");
        }
    }
}
