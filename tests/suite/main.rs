//! The promises of the manuals on real mounts, a file for each guarantee: `cargo test --release --test suite leases::` runs those of
//! leases. They are one program, because to compile what they share, and to link RocksDB, a hundred times over took minutes.
//! What changes its own process (limits), runs itself again, or is run by a script has a program of its own beside this folder.

#[path = "../common/activemq.rs"]
mod activemq;
#[path = "../common/brokers.rs"]
mod brokers;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/consuming.rs"]
mod consuming;
#[path = "../common/disk.rs"]
mod disk;
#[path = "../common/extra.rs"]
mod extra;
#[path = "../common/kafka.rs"]
mod kafka;
#[path = "../common/linking.rs"]
mod linking;
#[path = "../common/manual.rs"]
mod manual;
#[path = "../common/maven.rs"]
mod maven;
#[path = "../common/nats.rs"]
mod nats;
#[path = "../common/place.rs"]
mod place;
#[path = "../common/rabbit.rs"]
mod rabbit;
#[path = "../common/slow.rs"]
mod slow;
#[path = "../common/users.rs"]
mod users;
#[path = "../common/waiting.rs"]
mod waiting;

mod attacks;
mod backup;
mod backup_refusals;
mod bare_names;
mod batch;
mod batch_crashes;
mod batch_users;
mod blocked_races;
mod blocked_writers;
mod blocking;
mod claims_command;
mod clock;
mod configuration;
mod consume;
mod consume_claims;
mod consume_command;
mod consume_guard;
mod consume_outcomes;
mod consume_running;
mod crash_points;
mod crashes;
mod damage;
mod damaged_bodies;
mod dead_letters;
mod dedup;
mod deep_queues;
mod delays;
mod deliveries;
mod device_errors;
mod documents;
mod drafts;
mod drop_box;
mod durability;
mod empty_messages;
mod enqueue;
mod entrance;
mod errors;
mod exec;
mod export;
mod fairness;
mod foreign;
mod full_and_damaged;
mod full_disk;
mod gone;
mod hot_folder;
mod inheritance;
mod inodes;
mod keep;
mod keep_programs;
mod killed_writers;
mod large;
mod layers;
mod leases;
mod limits;
mod lines_read;
mod lines_write;
mod link_alerts;
mod link_command;
mod link_kafka_in;
mod link_kafka_out;
mod link_kafka_places;
mod link_kafka_rights;
mod link_kafka_rough;
mod link_kafka_token;
mod link_many_headers;
mod link_nats_in;
mod link_nats_out;
mod link_queue;
mod link_rabbit_closed;
mod link_rabbit_in;
mod link_rabbit_out;
mod link_rabbit_refusals;
mod link_rabbit_rough;
mod link_recipes;
mod link_stomp_in;
mod link_stomp_killed;
mod link_stomp_out;
mod link_stomp_rabbit;
mod link_strays;
mod link_table;
mod link_tls;
mod link_window;
mod link_zmq;
mod listings;
mod locking;
mod logging;
mod ls_command;
mod maildir;
mod many_queues;
mod marks;
mod max_claimed;
mod metadata;
mod metrics;
mod modes;
mod mount8;
mod mount_command;
mod names;
mod oldest;
mod overflow;
mod owner;
mod ownership;
mod paused;
mod permissions;
mod plain_reads;
mod poll;
mod priorities;
mod privileges;
mod producers;
mod properties_at_once;
mod publishing;
mod purge;
mod put;
mod put_command;
mod put_staged;
mod queues;
mod races;
mod recipes;
mod recipes_mount;
mod refusals;
mod refused_early;
mod remounts;
mod renames;
mod renewal;
mod restart;
mod retries;
mod samba;
mod scale;
mod scarce;
mod scripts;
mod settles;
mod shared_descriptors;
mod shutdown;
mod slow_syncs;
mod small_drafts;
mod sshfs;
mod states;
mod stuck_clients;
mod terminal;
mod time_to_live;
mod times;
mod tour;
mod transport;
mod unfinished;
mod unfinished_writers;
mod unmounting;
mod untold;
mod upgrade;
mod uploads;
mod user_limits;
mod waiters;
mod with;
mod worker_loop;
mod workers;
