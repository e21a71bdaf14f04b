//! The one place where asynchronous code runs: a thread of its own, so that heartbeats go on while a queue makes its callers wait.
//! The loops call from another thread, and wait. TLS is set up here: it always verifies.

use std::cell::RefCell;
use std::error::Error;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::secret;
use super::settings::Settings;
use super::trouble::{Kind, Trouble};
use super::url::{Host, Target};

/// How long it may take to connect to a host, with TLS.
const CONNECT: Duration = Duration::from_secs(10);

/// The thread of the network.
pub struct Net {
    handle: Handle,
    /// Readable when the link is asked for something, while it connects: nothing else is given up for that.
    asked: RefCell<Option<OwnedFd>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Net {
    /// Starts it.
    pub fn start() -> Result<Net, Trouble> {
        let failed = |error: io::Error| Trouble::new(Kind::Local, format_args!("cannot start a thread: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let run = move || {
            let _ = runtime.block_on(ended);
            // What waits for a name to be resolved must not hold up the end.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("link-net".to_owned()).spawn(run).map_err(failed)?;
        Ok(Net { handle, asked: RefCell::default(), end: Some(end), thread: Some(thread) })
    }

    /// Where tasks are spawned.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for something, but not for longer than this.
    pub fn wait<T>(&self, limit: Duration, what: impl Future<Output = T>) -> Result<T, Trouble> {
        let timed = async { tokio::time::timeout(limit, what).await };
        let asked = self.asked.borrow();
        let waited = self.handle.block_on(async {
            let (mut timed, mut asked) = (pin!(timed), pin!(readable(asked.as_ref())));
            poll_fn(|context| match timed.as_mut().poll(context) {
                Poll::Ready(waited) => Poll::Ready(Some(waited)),
                Poll::Pending => asked.as_mut().poll(context).map(|()| None),
            })
            .await
        });
        match waited {
            Some(waited) => waited.map_err(|_| Trouble::away(format_args!("no answer for {} s", limit.as_secs()))),
            None => Err(Trouble::away("something else was asked for")),
        }
    }

    /// Does something that waits, and gives it up as soon as this is readable.
    pub fn unless<T>(&self, asked: BorrowedFd<'_>, what: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
        let asked = asked.try_clone_to_owned();
        *self.asked.borrow_mut() = Some(asked.map_err(|error| Trouble::new(Kind::Local, error))?);
        let done = what();
        *self.asked.borrow_mut() = None;
        done
    }
}

/// Waits until it is readable; for ever when it is nothing.
async fn readable(asked: Option<&OwnedFd>) {
    let watched = asked.and_then(|asked| asked.try_clone().ok());
    // SAFETY: the descriptor is its own, and stays open as long as it is watched.
    let watched = watched.and_then(|asked| unsafe { AsyncFd::register_with_interest(asked, Interest::READABLE) }.ok());
    match watched {
        Some(watched) => drop(watched.readable().await),
        None => pending().await,
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection, encrypted or not.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, encrypted or not.
pub type Stream = Pin<Box<dyn Io>>;

/// The configuration of TLS: which certificates are trusted, and which one is shown. Nothing for a URL without it, and there is none
/// without verification.
pub fn tls(target: &Target, settings: &Settings) -> Result<Option<Arc<ClientConfig>>, Trouble> {
    if !target.tls {
        return Ok(None);
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let wrong = |error| Trouble::new(Kind::Local, format_args!("TLS: {error}"));
    let config = config.map_err(wrong)?.with_root_certificates(roots(settings.tls_ca.as_deref())?);
    let config = match (&settings.tls_cert, &settings.tls_key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("tls_cert", certificate)?;
            config.with_client_auth_cert(chain, private_key(key)?).map_err(wrong)?
        }
        (None, None) => config.with_no_client_auth(),
        _ => return Err(Trouble::usage("`tls_cert` and `tls_key` belong together")),
    };
    Ok(Some(Arc::new(config)))
}

/// The certificates of a file that a setting names, at least one.
fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Trouble> {
    let refused = |why: &dyn std::fmt::Display| Trouble::usage(format_args!("{setting} {}: {why}", path.display()));
    let all = CertificateDer::pem_file_iter(path).map_err(|error| refused(&error))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|error| refused(&error))?;
    if all.is_empty() {
        return Err(refused(&"there is no certificate in it"));
    }
    Ok(all)
}

/// The key of the certificate that is shown; nobody else may be able to read it.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Trouble> {
    let refused = |why: &dyn std::fmt::Display| Trouble::usage(format_args!("tls_key {}: {why}", path.display()));
    let text = secret::read(path).map_err(|why| refused(&why))?;
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| refused(&error))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, Trouble> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates("tls_ca", path)? {
                let refused = |error| Trouble::usage(format_args!("tls_ca {}: {error}", path.display()));
                roots.add(certificate).map_err(refused)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(Trouble::usage(
                    "the system trusts no certificates (package ca-certificates); say `tls_ca = FILE`",
                ));
            }
        }
    }
    Ok(roots)
}

/// Opens something at the first host that lets us in. What the first says counts, unless another one is there and will not.
pub async fn first<T>(hosts: &[Host], open: impl AsyncFn(&Host) -> Result<T, Trouble>) -> Result<T, Trouble> {
    let mut trouble: Option<Trouble> = None;
    for host in hosts {
        match open(host).await {
            Ok(opened) => return Ok(opened),
            Err(next) => match &trouble {
                Some(Trouble { kind: Kind::Refusing, .. }) => {}
                Some(_) if next.kind != Kind::Refusing => {}
                _ => trouble = Some(next),
            },
        }
    }
    Err(trouble.unwrap_or_else(|| Trouble::usage("there is no host")))
}

/// What is said of a port where TLS was expected.
pub const NO_TLS: &str = "nobody speaks TLS at this port";

/// Whether an error, or what lies behind it, is that what came is nothing of TLS.
pub fn is_no_tls(error: &(dyn Error + 'static)) -> bool {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let tls = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref());
    matches!(tls, Some(tokio_rustls::rustls::Error::InvalidMessage(_))) || error.source().is_some_and(is_no_tls)
}

/// Connects to a host, with TLS if there is a configuration.
pub async fn connect(host: &Host, tls: Option<Arc<ClientConfig>>) -> Result<Stream, Trouble> {
    let at = |why: &dyn std::fmt::Display| format!("{}:{}: {why}", host.name, host.port);
    let connecting = async {
        let plain = TcpStream::connect((host.name.as_str(), host.port)).await;
        let plain = plain.map_err(|error| Trouble::away(at(&error)))?;
        plain.set_nodelay(true).map_err(|error| Trouble::away(at(&error)))?;
        let Some(config) = tls else { return Ok(Box::pin(plain) as Stream) };
        let name = ServerName::try_from(host.name.clone()).map_err(|error| Trouble::usage(at(&error)))?;
        match TlsConnector::from(config).connect(name, plain).await {
            Ok(stream) => Ok(Box::pin(stream) as Stream),
            // What rustls itself objects to does not go away by itself.
            Err(error) if is_no_tls(&error) => Err(Trouble::refusing(at(&NO_TLS))),
            Err(error) if error.get_ref().is_some() => Err(Trouble::refusing(at(&format_args!("TLS: {error}")))),
            Err(error) => Err(Trouble::away(at(&error))),
        }
    };
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(Trouble::away(at(&"no answer"))),
    }
}
