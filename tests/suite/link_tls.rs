//! TLS of `mqfs link` verifies: who is not who it says, or was only, is told nothing, whichever system it is.

use std::net::TcpStream;

use crate::brokers::{Place, free_ports, make_certificates};
use crate::common::*;
use crate::linking::{many, run, secret};
use crate::nats::Nats;

/// A certificate, and what the link says of it.
const REFUSED: [(&str, &str); 3] = [
    ("elsewhere.pem", "not valid for name"),
    ("expired.pem", "certificate expired"),
    // Somebody else has signed it, in the name of who is trusted.
    ("cert.pem", "BadSignature"),
];
/// All that librdkafka says.
const KAFKA_SAYS: &str = "certificate could not be verified";

/// Starts something that speaks TLS with this certificate.
fn server(place: &Place, certificate: &str) -> u16 {
    let [port] = free_ports();
    let mut server = place.command("openssl");
    server.args(["s_server", "-www", "-accept", &format!("127.0.0.1:{port}"), "-key", "key.pem", "-cert", certificate]);
    place.start(server.args(["-CAfile", "ca.pem"]));
    wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
    port
}

/// Three ways to be the wrong one, and none of them is told a password.
#[test]
fn who_is_not_who_it_says_is_refused() {
    let (m, place, other) = (Mount::new(), Place::new("tls"), Place::new("tls"));
    let q = many(&m, 1);
    make_certificates(place.dir());
    make_certificates(other.dir());
    let anna = secret(&m, "anna", "sesame");
    for (certificate, told) in REFUSED {
        let port = server(&place, certificate);
        let nats = Nats::start_with(&format!("tls {{ cert_file: DIR/{certificate}, key_file: DIR/key.pem }}\n"));
        let ca = |trusted: std::path::PathBuf| {
            let ca = if certificate == "cert.pem" { other.path("ca.pem") } else { trusted };
            format!("tls_ca={}", ca.display())
        };
        let host = format!("127.0.0.1:{port}");
        for (url, ca) in [
            (format!("amqps://{host}?queue=q"), ca(place.path("ca.pem"))),
            (format!("activemqs://{host}?queue=q"), ca(place.path("ca.pem"))),
            (format!("kafkas://{host}/q"), ca(place.path("ca.pem"))),
            (nats.tls_url("/q"), ca(nats.path("ca.pem"))),
        ] {
            let ran = run(&m, &["--until-empty", "-o", &anna, "-o", &ca, "q", &url]);
            assert_eq!(ran.code(), Some(16), "{certificate}, {url}: {ran:?}");
            ran.fails(if url.starts_with("kafkas") { KAFKA_SAYS } else { told });
        }
    }
    assert_eq!(m.stats(&q)["claims_total"], 0);
}
