//! A queue bound to a broker: what is enqueued here goes there, or what comes there is enqueued here.
//!
//! A link is a process of its own that uses the mounted files as any user does, so it needs nothing of the store, and the modes of the
//! files decide what it may do. Of the rest of the project it uses only words of the model ([`crate::queue`]) and the clock.
//!
//! - [`url`], [`settings`], [`secret`]: what is to be linked, and how;
//! - [`envelope`], [`properties`], [`overflow`]: a message between the two worlds, and the one table of what becomes what;
//! - [`local`]: the queue as files: claim, read, acknowledge, give back; batches and marks;
//! - [`peer`]: what a broker offers to the loops, a short list of whole operations; [`systems`] names those that offer it;
//! - [`mark`]: what is left in the queue to know after any crash what came in;
//! - [`net`]: the one place where asynchronous code runs, and where TLS is set up;
//! - [`run`]: the two loops, `--check` and `--show`; [`status`], [`metrics`]: what a link tells of itself.

#[cfg(feature = "link-amqp")]
pub mod amqp;
pub mod backoff;
pub mod digest;
pub mod envelope;
#[cfg(feature = "link-kafka")]
pub mod kafka;
pub mod local;
pub mod mark;
pub mod metrics;
#[cfg(feature = "link-nats")]
pub mod nats;
pub mod net;
pub mod overflow;
pub mod peer;
pub mod properties;
pub mod run;
pub mod secret;
pub mod settings;
pub mod status;
#[cfg(feature = "link-stomp")]
pub mod stomp;
pub mod systems;
pub mod trouble;
pub mod url;
#[cfg(feature = "link-zmq")]
pub mod zmq;
