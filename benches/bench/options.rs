//! The command line of the benchmark, and the two programs that it starts from itself.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::client::Task;

/// Measure mqfs against the spool idiom and against a FUSE server that does nothing; with `--only links`, links against the
/// brokers' own clients.
#[derive(Parser)]
#[command(name = "bench", about)]
pub struct Options {
    /// Run only this part; may be given several times. Without it, all parts but `links` and `idle`
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Run only the part with a million messages
    #[arg(long)]
    million: bool,
    /// Rounds; every contender has its turn in each
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Numbers of producers for durable enqueue
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,8,32",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub producers: Vec<u32>,
    /// Numbers of clients for the comparison with the server that does nothing
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,4",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub clients: Vec<u32>,
    /// Messages per client and round, instead of about half a second's worth
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Messages of the million part
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub messages: u64,
    /// Numbers of links that have nothing to do
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "20,100",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub idle: Vec<u32>,
    /// Systems that are linked
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "rabbitmq,kafka")]
    pub systems: Vec<System>,
    /// Where store, spool and mount points go [default: $MQFS_BENCH_DIR, else below the build directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The mqfs to measure [default: the one that was built together with this program]
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_mqfs"), hide_default_value = true)]
    pub mqfs: PathBuf,
    /// A setting of all links, as `mqfs link -o` takes them; may be given several times
    #[arg(long = "link-option", value_name = "KEY=VALUE")]
    pub link_settings: Vec<String>,
    /// Options for the mount, as `mqfs mount -o` takes them
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub mount_options: Option<String>,
    /// Exit with 1 when an expectation is not met
    #[arg(long)]
    pub strict: bool,
    /// What `cargo bench` says to every benchmark
    #[arg(long = "bench", hide = true)]
    _bench: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The parts of a run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Durable enqueue against the spool idiom
    Durable,
    /// Asynchronous enqueue against the server that does nothing
    Enqueue,
    /// Claim, read and acknowledge by name against the server that does nothing
    Consume,
    /// A million messages: memory, listing, mounting again
    Million,
    /// Links to RabbitMQ and Kafka against the brokers' own clients; only when it is asked for
    Links,
    /// Links with nothing to do: what they take of the processors; only when it is asked for
    Idle,
}

/// The systems of the parts with links.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// RabbitMQ, by AMQP 0-9-1
    Rabbitmq,
    /// Apache Kafka
    Kafka,
}

/// What the benchmark starts from itself.
#[derive(Subcommand)]
pub enum Command {
    /// One client: waits for a line, makes its calls, says when it began and ended
    #[command(hide = true)]
    Client(Task),
    /// The FUSE server that does nothing
    #[command(hide = true)]
    Nothing {
        /// Where to mount it
        mountpoint: PathBuf,
    },
}

impl Options {
    /// Whether this run is to include `part`.
    pub fn wants(&self, part: Part) -> bool {
        if self.million {
            return part == Part::Million;
        }
        // What needs packages that nothing else here does is run on request.
        let usual = !matches!(part, Part::Links | Part::Idle);
        self.only.contains(&part) || self.only.is_empty() && usual
    }
}
