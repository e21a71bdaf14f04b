//! User and password of a link: from a file that only its user can read, never from the command line.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::settings::Settings;
use super::trouble::Trouble;
use super::url::Target;

/// No file of this kind is longer, in bytes.
const LONGEST: u64 = 64 * 1024;

/// Who logs in, and how.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// By a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// By a word that says it all.
    Token(String),
    /// By a key of NATS: its seed.
    Nkey(String),
    /// By a file of NATS's credentials, with a JWT and a seed: its text.
    Credentials(String),
    /// By a pair of keys of CURVE.
    Curve {
        /// The one that others may know.
        public: String,
        /// The other one.
        secret: String,
        /// Who may connect to it, if not everybody who knows the public one: their public ones.
        clients: Vec<String>,
    },
}

/// How a file begins that NATS's tools have made.
const CREDENTIALS: &str = "-----BEGIN NATS USER JWT-----";

impl Secret {
    /// User and password, for a system that knows nothing else.
    pub fn password(&self) -> Result<(&str, &str), Trouble> {
        match self {
            Secret::Password { user, password } => Ok((user, password)),
            Secret::Token(_) | Secret::Nkey(_) | Secret::Credentials(_) | Secret::Curve { .. } => {
                Err(Trouble::usage("the secret: this system wants the lines `user = ...` and `password = ...`"))
            }
        }
    }

    /// The keys of CURVE, public and secret, and those of who may connect, for a system that knows nothing else.
    pub fn curve(&self) -> Result<(&str, &str, &[String]), Trouble> {
        match self {
            Secret::Curve { public, secret, clients } => Ok((public, secret, clients)),
            _ => Err(Trouble::usage(
                "the secret: this system wants the lines `curve_public = ...` and `curve_secret = ...`",
            )),
        }
    }
}

// A password is in no message of this program, not even in one for its developers.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::Password { user, .. } => write!(f, "Secret({user})"),
            Secret::Token(_) => f.write_str("Secret(a token)"),
            Secret::Nkey(_) => f.write_str("Secret(a key)"),
            Secret::Credentials(_) => f.write_str("Secret(credentials)"),
            Secret::Curve { public, .. } => write!(f, "Secret({public})"),
        }
    }
}

/// Reads the secret of a link, if there is one: that of `secret = FILE`, else `$CREDENTIALS_DIRECTORY/secret`, which systemd sets.
pub fn of(settings: &Settings, target: &Target) -> Result<Option<Secret>, Trouble> {
    let given = settings.secret.is_some();
    let by_systemd = || {
        let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join("secret");
        path.exists().then_some(path)
    };
    let Some(path) = settings.secret.clone().or_else(by_systemd) else { return Ok(None) };
    let refused = |why: String| Trouble::usage(format_args!("secret {}: {why}", path.display()));
    let text = read(&path).map_err(refused)?;
    // What a unit of systemd hands over when there is no file.
    if !given && lines(&text).next().is_none() {
        return Ok(None);
    }
    let secret = parse(&text, target.user.as_deref()).map_err(refused)?;
    // A key is not sent, only what it has signed.
    let sent = matches!(secret, Secret::Password { .. } | Secret::Token(_));
    if sent && !target.tls && !settings.plaintext && target.hosts.iter().any(|host| !host.is_loopback()) {
        return Err(Trouble::usage(
            "the password would go unencrypted to another machine: use a URL with TLS, or say `plaintext = yes`",
        ));
    }
    Ok(Some(secret))
}

/// Reads a file that nobody else may be able to read.
pub fn read(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let seen = file.metadata().map_err(|error| error.to_string())?;
    if !seen.is_file() {
        return Err("it is not a file".to_owned());
    }
    let own = rustix::process::geteuid().as_raw();
    // What systemd hands over belongs to root, or to the user, and nobody else can read it.
    if seen.uid() != own && seen.uid() != 0 {
        return Err("it belongs to another user".to_owned());
    }
    if seen.mode() & 0o077 & !0o040 != 0 || (seen.mode() & 0o040 != 0 && seen.gid() != 0) {
        return Err(format!("its mode is {:04o}, and others could read it: chmod 0600", seen.mode() & 0o7777));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// The lines that say something.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn parse(text: &str, user_of_url: Option<&str>) -> Result<Secret, String> {
    const KEYS: [&str; 6] = ["user", "password", "token", "nkey", "curve_public", "curve_secret"];
    const CLIENT: &str = "curve_client";
    if text.contains(CREDENTIALS) {
        return Ok(Secret::Credentials(text.to_owned()));
    }
    let mut values: [Option<String>; KEYS.len()] = Default::default();
    let mut clients = Vec::new();
    for line in lines(text) {
        // A line that makes no sense may be a password: it is not repeated.
        let (key, value) = line.split_once('=').ok_or("a line is not `key = value`")?;
        let value = value.trim().to_owned();
        match KEYS.iter().position(|known| *known == key.trim()) {
            Some(known) => values[known] = Some(value),
            None if key.trim() == CLIENT => clients.push(value),
            None => return Err(format!("a key is unknown: known are {}, {CLIENT}", KEYS.join(", "))),
        }
    }
    let [user, password, token, nkey, public, secret] = values;
    match (public, secret) {
        (None, None) if clients.is_empty() => {}
        (Some(public), Some(secret)) if password.is_none() && token.is_none() && nkey.is_none() => {
            return Ok(Secret::Curve { public, secret, clients });
        }
        _ => return Err("curve_public, curve_secret and curve_client belong together, and to nothing else".to_owned()),
    }
    match (user.or_else(|| user_of_url.map(str::to_owned)), password, token, nkey) {
        (Some(user), Some(password), None, None) => Ok(Secret::Password { user, password }),
        (_, None, Some(token), None) => Ok(Secret::Token(token)),
        (_, None, None, Some(seed)) => Ok(Secret::Nkey(seed)),
        (None, _, None, None) => Err("it has no line `user = ...`".to_owned()),
        (_, None, None, None) => Err("it has no line `password = ...`".to_owned()),
        _ => Err("one of password, token and nkey is enough".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_never_repeated() {
        let secret = parse("# for the broker\nuser = anna\npassword = a=b c\n", None).unwrap();
        assert_eq!(secret.password().unwrap(), ("anna", "a=b c"));
        assert_eq!(format!("{secret:?}"), "Secret(anna)");
        assert_eq!(parse("password=x", Some("url")).unwrap().password().unwrap(), ("url", "x"));
        let token = parse("token = sesame", Some("url")).unwrap();
        assert_eq!((format!("{token:?}"), token.password().is_err()), ("Secret(a token)".to_owned(), true));
        assert_eq!(parse("nkey = SU", None).unwrap(), Secret::Nkey("SU".to_owned()));
        let curve = parse("curve_public = p\ncurve_secret = sesame", None).unwrap();
        assert_eq!((curve.curve().unwrap(), format!("{curve:?}")), (("p", "sesame", &[][..]), "Secret(p)".to_owned()));
        let server = parse("curve_public = p\ncurve_secret = s\ncurve_client = a\ncurve_client = b=", None).unwrap();
        assert_eq!(server.curve().unwrap().2, ["a", "b="]);
        let jwt = parse("-----BEGIN NATS USER JWT-----\nsesame\n", None).unwrap();
        assert_eq!((format!("{jwt:?}"), jwt.password().is_err()), ("Secret(credentials)".to_owned(), true));
        assert!(curve.password().is_err() && token.curve().is_err());
        for text in [
            "sesame",
            "passwort = sesame",
            "user = sesame",
            "password = sesame",
            "token = sesame\nnkey = sesame",
            "curve_client = sesame",
        ] {
            let why = parse(text, None).expect_err(text);
            assert!(!why.contains("sesame"), "{why}");
        }
    }
}
