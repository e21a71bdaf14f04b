//! Tokens of OAUTHBEARER (RFC 7628): the library is handed what the file of the secret has, and again each time when it asks: whoever
//! renews tokens replaces the file.

use std::ffi::CString;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::NativeClient;

use super::super::peer::Ends;
use super::super::secret::{self, Secret};
use super::super::settings::Settings;
use super::super::trouble::{Kind, Trouble};
use super::super::url::Target;
use super::address::{Address, Sasl};
use super::events;
use crate::clock;

/// A token that does not say how long it is good for is read anew after so many milliseconds.
const OPAQUE_MS: u64 = 300_000;

/// Where tokens are.
pub struct Tokens {
    settings: Settings,
    target: Target,
}

/// What a token says of itself. That it is signed is for the cluster to look at.
#[derive(Debug, PartialEq, Eq)]
struct Claims {
    /// Until when it is good, in milliseconds since the epoch.
    until_ms: Option<u64>,
    /// Whose it is.
    subject: Option<String>,
}

impl Tokens {
    /// Those of a link that shows some.
    pub fn of(ends: Ends<'_>, address: &Address) -> Option<Tokens> {
        let shown = address.sasl == Sasl::OauthBearer;
        shown.then(|| Tokens { settings: ends.settings.clone(), target: ends.target.clone() })
    }

    /// Hands the library what the file has by now.
    pub fn offer(&self, client: &NativeClient) -> Result<(), Trouble> {
        let Some(Secret::Token(token)) = secret::of(&self.settings, &self.target)? else {
            return Err(Trouble::usage("sasl=oauthbearer: the secret has to have a line `token = ...`"));
        };
        let (claims, now) = (claims(&token), clock::now_ms());
        if claims.until_ms.is_some_and(|until| until <= now) {
            return Err(Trouble::refusing("the token has expired: the file of `secret` needs a new one"));
        }
        let text = |text: String| CString::new(text).map_err(|_| Trouble::usage("the token: it is not text"));
        let (token, subject) = (text(token)?, text(claims.subject.unwrap_or_else(|| "mqfs".to_owned()))?);
        let until = claims.until_ms.unwrap_or(now + OPAQUE_MS);
        events::set_token(client, &token, until, &subject).map_err(|why| Trouble::new(Kind::Refusing, why))
    }

    /// The same, when the library asks: what is wrong is an event, and it asks again.
    pub fn renew(&self, client: &NativeClient) {
        if let Err(trouble) = self.offer(client) {
            events::no_token(client, &CString::new(trouble.text).unwrap_or_default());
        }
    }
}

fn claims(token: &str) -> Claims {
    let payload = token.split('.').nth(1).map(|part| part.trim_end_matches('='));
    let bytes = payload.and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).unwrap_or_default();
    let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let until_ms =
        said["exp"].as_f64().filter(|until| (0.0..1e12).contains(until)).map(|until| (until * 1000.0) as u64);
    Claims { until_ms, subject: said["sub"].as_str().map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is_and_until_when() {
        let of = |payload: &str| claims(&format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload)));
        let anna = Claims { until_ms: Some(1_700_000_000_500), subject: Some("anna".to_owned()) };
        assert_eq!(of(r#"{"sub":"anna","exp":1700000000.5}"#), anna);
        let opaque = Claims { until_ms: None, subject: None };
        for payload in ["", "{}", r#"{"exp":"soon","sub":7}"#, r#"{"exp":-1}"#, r#"{"exp":1e300}"#] {
            assert_eq!(of(payload), opaque, "{payload}");
        }
        assert!(["sesame", "a.!.b"].iter().all(|token| claims(token) == opaque));
    }
}
