//! `mqfs link` and an Apache Kafka that tells links by tokens (OAUTHBEARER), which are soon over.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::kafka::shared;
use crate::linking::{SOON, is_empty, many, run, secret, start};

/// A token of OAUTHBEARER for so many seconds, as the test's cluster takes it, in the file of the secret: it replaces the one before.
fn token(m: &Mount, subject: &str, seconds: i64) -> String {
    let program = "import base64, json, sys, time; t = time.time()\n\
        part = lambda d: base64.urlsafe_b64encode(json.dumps(d).encode()).decode().rstrip('=')\n\
        print('token = ' + part({'alg': 'none'}) + '.' + part({'sub': sys.argv[1], 'iat': t - 60, 'exp': t + int(sys.argv[2])}) + '.')";
    let made = Command::new("/usr/bin/python3").args(["-c", program, subject, &seconds.to_string()]).output().unwrap();
    let (new, path) = (m.scratch().join("token.new"), m.scratch().join("token"));
    fs::write(&new, made.stdout).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, &path).unwrap();
    format!("secret={}", path.display())
}

/// OAUTHBEARER: a token says who one is; one that is over is told, and so is a secret without one. No token is repeated.
#[test]
fn a_token_says_who_a_link_is() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let (q, into) = (many(&m, 1), m.queue("into"));
    kafka.topic("token", 1);
    let (ca, url) = (format!("tls_ca={}", kafka.ca().display()), kafka.sasl_url("token?sasl=oauthbearer"));
    let link = |secret: &str, ends: [&str; 2]| {
        let ran = run(&m, &["--until-empty", "-o", &ca, "-o", secret, ends[0], ends[1]]);
        let file = fs::read_to_string(m.scratch().join("token")).unwrap();
        assert!(!ran.stderr.contains(file.trim_start_matches("token = ").trim()), "{ran:?}");
        ran
    };
    for (subject, seconds, told) in [
        ("bob", 3600, "Topic authorization failed"),
        ("anna", -1, "the token has expired: the file of `secret` needs a new one"),
    ] {
        let ran = link(&token(&m, subject, seconds), ["q", &url]);
        assert_eq!(ran.code(), Some(16), "{ran:?}");
        ran.fails(told);
    }
    let ran = link(&secret(&m, "anna", "sesame"), ["q", &url]);
    assert_eq!((ran.code(), &m.stats(&q)["claims_total"]), (Some(2), &0.into()), "{ran:?}");
    ran.fails("with a line `token = ...`");
    let anna = token(&m, "anna", 3600);
    let checked = run(&m, &["--check", "-o", &ca, "-o", &anna, "q", &url]);
    assert!(checked.ok().contains("a record of more than"), "the configuration is seen, too: {checked:?}");
    link(&anna, ["q", &url]).ok();
    link(&anna, [&url, "into"]).ok();
    assert_eq!((is_empty(&m, &q), m.bodies(&into)), (true, vec!["m0".to_owned()]));
}

/// A cluster hangs up on who shows no new token when one is over: the file is read again before that, and nothing is to be told. A link
/// that finds one that is over when it needs it says so, and goes on with the next one.
#[test]
fn a_token_is_renewed() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let (from, into) = (many(&m, 1), m.queue("into"));
    kafka.topic("renewed", 1);
    let (ca, url) = (format!("tls_ca={}", kafka.ca().display()), kafka.sasl_url("renewed?sasl=oauthbearer"));
    let anna = token(&m, "anna", 15);
    let over = Instant::now() + Duration::from_secs(16);
    let common = [&SOON[..], &["-o", &ca, "-o", &anna]].concat();
    let out = start(&m, &[&common[..], &["-o", "name=out", "q", &url]].concat());
    let takes = start(&m, &[&common[..], &["-o", "name=in", &url, "into"]].concat());
    wait_until(|| m.bodies(&into).len() == 1 && is_empty(&m, &from));
    token(&m, "anna", 3600);
    wait_until(|| Instant::now() > over);
    fs::write(from.join("m1"), "m1").unwrap();
    wait_until(|| m.bodies(&into).len() == 2 && is_empty(&m, &from));
    for link in [out, takes] {
        link.signal(libc::SIGTERM);
        let ran = link.finish();
        assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    }
    token(&m, "anna", -1);
    let late = start(&m, &[&common[..], &["-o", "name=late", "q", &url]].concat());
    wait_until(|| late.errors().contains("failing: the token has expired"));
    token(&m, "anna", 3600);
    fs::write(from.join("m2"), "m2").unwrap();
    wait_until(|| is_empty(&m, &from));
    late.signal(libc::SIGTERM);
    assert_eq!(late.finish().code(), Some(0));
}
