//! The other end of a link: `SYSTEM://[USER@]HOST[:PORT][,HOST[:PORT]...][/PATH][?KEY=VALUE&...]`.

use percent_encoding::percent_decode_str;
use url::Url;

/// How a URL begins, and what that means.
#[derive(Debug, PartialEq, Eq)]
pub struct Scheme {
    /// What is before `://`.
    pub name: &'static str,
    /// Whether the connection is encrypted, and the broker's certificate verified.
    pub tls: bool,
    /// The port when the URL names none; 0 when it has to.
    pub port: u16,
    /// Whether a host follows; else it is a path of this machine.
    pub hosts: bool,
}

/// A machine, or one of several that are as good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name or address, without the brackets of an IPv6 address.
    pub name: String,
    /// The port.
    pub port: u16,
}

impl Host {
    /// Whether it is this machine, by a way that nobody else can listen to.
    pub fn is_loopback(&self) -> bool {
        self.name == "localhost" || self.name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// The other end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The URL as it was given; it has no password in it.
    pub text: String,
    /// What it begins with.
    pub scheme: &'static str,
    /// Whether the connection is encrypted, and the broker's certificate verified.
    pub tls: bool,
    /// Where it is, at least one; none when it is a path.
    pub hosts: Vec<Host>,
    /// The port of a host for which the URL names none.
    pub port: u16,
    /// Who logs in, if the URL says so.
    pub user: Option<String>,
    /// What follows the slash, decoded; nothing when nothing does.
    pub path: Option<String>,
    /// The parameters, decoded, each at most once.
    parameters: Vec<(String, String)>,
}

impl Target {
    /// A parameter.
    pub fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Refuses parameters that are not among `known`.
    pub fn expect_parameters(&self, known: &[&str]) -> Result<(), String> {
        match self.parameters.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            Some((key, _)) => Err(format!("unknown parameter `{key}`: known are {}", known.join(", "))),
            None => Ok(()),
        }
    }
}

/// Whether a word is meant to be a URL, not a path.
pub fn is_url(word: &str) -> bool {
    word.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

/// What a word that is meant to be a URL begins with, in small letters.
pub fn scheme_of(text: &str) -> Option<String> {
    text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase())
}

/// Reads a URL of a scheme. What it says about one that it refuses has no password in it.
pub fn parse(text: &str, scheme: &'static Scheme) -> Result<Target, String> {
    let (_, rest) = text.split_once("://").ok_or("it is not a URL")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (user, machines) = match authority.rsplit_once('@') {
        Some((user, machines)) => (Some(user), machines),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.contains(':')) {
        return Err(
            "a password in a URL is seen by everybody who lists processes: put it into a file, `secret = FILE`"
                .to_owned(),
        );
    }
    let hosts = match scheme.hosts {
        true => machines.split(',').map(|machine| host(scheme, machine)).collect::<Result<Vec<_>, _>>()?,
        false if authority.is_empty() => Vec::new(),
        false => return Err(format!("{}:// is followed by a path, and by no host", scheme.name)),
    };
    let whole = Url::parse(&format!("{}://host{tail}", scheme.name)).map_err(|error| error.to_string())?;
    if whole.fragment().is_some() {
        return Err("it has a fragment (#), which means nothing here".to_owned());
    }
    let mut parameters: Vec<(String, String)> = Vec::new();
    for (key, value) in whole.query_pairs() {
        if parameters.iter().any(|(known, _)| *known == key) {
            return Err(format!("`{key}` is given twice"));
        }
        parameters.push((key.into_owned(), value.into_owned()));
    }
    let path = whole.path().strip_prefix('/').filter(|path| !path.is_empty()).map(decoded).transpose()?;
    let user = user.filter(|user| !user.is_empty()).map(decoded).transpose()?;
    Ok(Target {
        text: text.to_owned(),
        scheme: scheme.name,
        tls: scheme.tls,
        hosts,
        port: scheme.port,
        user,
        path,
        parameters,
    })
}

fn host(scheme: &Scheme, machine: &str) -> Result<Host, String> {
    let refused = |why: &str| format!("`{machine}` is not a host: {why}");
    let url = Url::parse(&format!("{}://{machine}", scheme.name)).map_err(|error| refused(&error.to_string()))?;
    let name = url.host_str().filter(|name| !name.is_empty()).ok_or_else(|| refused("there is none"))?;
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    match url.port().unwrap_or(scheme.port) {
        0 => Err(refused("it has no port")),
        port => Ok(Host { name, port }),
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    String::from_utf8(bytes).map_err(|_| format!("`{text}` is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Scheme = Scheme { name: "some", tls: true, port: 5671, hosts: true };
    const PORT: Scheme = Scheme { name: "port", tls: false, port: 0, hosts: true };
    const PATH: Scheme = Scheme { name: "path", tls: false, port: 0, hosts: false };

    fn parse(text: &str) -> Result<Target, String> {
        super::parse(text, &SOME)
    }

    #[test]
    fn a_url_has_hosts_a_path_and_parameters() {
        let target =
            parse("some://anna@mq1.example,mq2.example:5999,[::1]/a%2fb?exchange=new%20orders&key=%group").unwrap();
        assert_eq!((target.scheme, target.tls), ("some", true));
        let hosts: Vec<(&str, u16)> = target.hosts.iter().map(|host| (host.name.as_str(), host.port)).collect();
        assert_eq!(hosts, [("mq1.example", 5671), ("mq2.example", 5999), ("::1", 5671)]);
        assert_eq!((target.user.as_deref(), target.path.as_deref()), (Some("anna"), Some("a/b")));
        assert_eq!((target.parameter("exchange"), target.parameter("key")), (Some("new orders"), Some("%group")));
        assert_eq!(parse("some://h").unwrap().path, None);
        assert_eq!(parse("some://h/").unwrap().path, None);
        assert_eq!(super::parse("port://*:7", &PORT).unwrap().hosts, [Host { name: "*".to_owned(), port: 7 }]);
        let path = super::parse("path:///run/x%20y?topic=t", &PATH).unwrap();
        assert_eq!((path.path.as_deref(), path.hosts.len()), (Some("run/x y"), 0));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_a_password_is_not_repeated() {
        for (text, told) in [
            ("some://u:sesame@h/?queue=q", "password"),
            ("some://?queue=q", "not a host"),
            ("some://h:port/", "not a host"),
            ("some://h,/", "not a host"),
            ("some://h/?queue=a&queue=b", "twice"),
            ("some://h/#x", "fragment"),
            ("some://h/%ff", "UTF-8"),
        ] {
            let why = parse(text).expect_err(text);
            assert!(why.contains(told) && !why.contains("sesame"), "{text}: {why}");
        }
        assert!(parse("some://h?q=1").unwrap().expect_parameters(&["queue"]).is_err());
        assert!(super::parse("port://h", &PORT).unwrap_err().contains("no port"));
        assert!(super::parse("path://h/x", &PATH).unwrap_err().contains("no host"));
    }

    #[test]
    fn a_path_is_no_url() {
        assert!(is_url("amqp://h") && is_url("zmq+push://h"));
        assert!(!is_url("/srv/mq/a://b") && !is_url("orders") && !is_url("://x"));
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let at = |name: &str| Host { name: name.to_owned(), port: 1 }.is_loopback();
        assert!(at("localhost") && at("127.0.0.1") && at("::1") && at("127.9.9.9"));
        assert!(!at("localhost.example") && !at("10.0.0.1") && !at("broker"));
    }
}
