//! What librdkafka tells, as values.
//!
//! The binding's own way of telling leaves out what a link has to know: at which offset a partition ends (markers of transactions
//! count, and no record has those offsets). And it panics at a header whose name is not UTF-8, which anybody may write. So its
//! queues are read here, where alone pointers of it are followed; everything is copied out before an event is given back.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::NativeClient;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;

/// What went wrong, by the broker or on the way there.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which it is.
    pub code: RDKafkaErrorCode,
    /// What there is to say.
    pub text: String,
    /// The client is of no use any more.
    pub fatal: bool,
}

/// A record that came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// In which partition it is.
    pub partition: i32,
    /// Where.
    pub offset: i64,
    /// When it was made, or written, in milliseconds since the epoch.
    pub timestamp: Option<u64>,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its value, unless that is null.
    pub value: Option<Vec<u8>>,
    /// Its headers; a value may be null.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// What is known of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// What tells it from others of its name, before and after it.
    pub id: String,
    /// Its partitions, and how many replicas each has.
    pub partitions: Vec<(i32, usize)>,
}

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// What became of records that were sent, by the numbers that they were given.
    Reported(Vec<(usize, Result<(), Fault>)>),
    /// A record came.
    Came(Record),
    /// A partition has no more for now: the next record will have this offset, or a later one.
    End(i32, i64),
    /// These partitions are to be read from now on.
    Assigned(Vec<i32>),
    /// None is, from now on.
    Revoked,
    /// What a topic is like.
    Described(Result<Topic, Fault>),
    /// Something does not work. What it is, the library goes on trying.
    Failed(Fault),
    /// A token is needed, or will be soon.
    TokenWanted,
    /// Nothing that concerns a link.
    Other,
}

/// Where a client tells what has happened.
///
/// It has to end before its client does: fields are dropped in the order in which they are declared.
pub struct Events(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: all calls of librdkafka may be made in any thread.
unsafe impl Send for Events {}
// SAFETY: as above.
unsafe impl Sync for Events {}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, and nobody has it after this.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

impl Events {
    /// The queue of a producer, or of any client.
    pub fn of_producer(client: &NativeClient) -> Option<Events> {
        // SAFETY: the client lives. The reference that this takes is given back by `drop`.
        NonNull::new(unsafe { sys::rd_kafka_queue_get_main(client.ptr()) }).map(Events)
    }

    /// The queue of a consumer.
    pub fn of_consumer(client: &NativeClient) -> Option<Events> {
        // SAFETY: as above.
        NonNull::new(unsafe { sys::rd_kafka_queue_get_consumer(client.ptr()) }).map(Events)
    }

    /// A queue for the answers to what is asked.
    pub fn of_answers(client: &NativeClient) -> Option<Events> {
        // SAFETY: as above.
        NonNull::new(unsafe { sys::rd_kafka_queue_new(client.ptr()) }).map(Events)
    }

    /// The next event, if one comes in time.
    pub fn next(&self, limit: Duration) -> Option<Event> {
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is ours.
        let event = NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.0.as_ptr(), limit) })?;
        // SAFETY: it lives until it is destroyed just below, and nothing of it is kept.
        unsafe {
            let read = read(event.as_ptr());
            sys::rd_kafka_event_destroy(event.as_ptr());
            Some(read)
        }
    }

    /// Makes who waits for the next event wait no longer.
    pub fn wake(&self) {
        // SAFETY: the queue is ours.
        unsafe { sys::rd_kafka_queue_yield(self.0.as_ptr()) }
    }

    /// Asks what a topic is like; it is not made by that. The answer is an event.
    pub fn ask(&self, client: &NativeClient, topic: &CString, limit: Duration) {
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        let mut names: [*const c_char; 1] = [topic.as_ptr()];
        // SAFETY: the client lives, the list has one name, and what is made for the question is destroyed after it.
        unsafe {
            let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
            let options = sys::rd_kafka_AdminOptions_new(client.ptr(), operation);
            sys::rd_kafka_AdminOptions_set_request_timeout(options, limit, ptr::null_mut(), 0);
            sys::rd_kafka_DescribeTopics(client.ptr(), topics, options, self.0.as_ptr());
            sys::rd_kafka_AdminOptions_destroy(options);
            sys::rd_kafka_TopicCollection_destroy(topics);
        }
    }
}

/// Copies an event.
///
/// # Safety
///
/// It is one that was polled and not destroyed.
unsafe fn read(event: *mut sys::rd_kafka_event_t) -> Event {
    // SAFETY: each call is one that this kind of event may be asked by.
    unsafe {
        match sys::rd_kafka_event_type(event) {
            sys::RD_KAFKA_EVENT_DR => Event::Reported(reports(event)),
            sys::RD_KAFKA_EVENT_FETCH => record(event),
            sys::RD_KAFKA_EVENT_ERROR => failed(event),
            sys::RD_KAFKA_EVENT_REBALANCE => rebalanced(event),
            sys::RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT => Event::Described(described(event)),
            sys::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH => Event::TokenWanted,
            _ => Event::Other,
        }
    }
}

/// Hands a client a token that is good until then, in milliseconds since the epoch, of whoever that is; the error is what is wrong with
/// it.
pub fn set_token(client: &NativeClient, token: &CStr, until_ms: u64, subject: &CStr) -> Result<(), String> {
    let until = i64::try_from(until_ms).unwrap_or(i64::MAX);
    let mut why: [c_char; 512] = [0; 512];
    // SAFETY: the client lives; the texts end with a zero and are copied; there are no extensions; `why` has as much room as is said, and
    // ends with a zero then.
    unsafe {
        let (token, subject) = (token.as_ptr(), subject.as_ptr());
        let (said, room) = (why.as_mut_ptr(), why.len());
        let set =
            sys::rd_kafka_oauthbearer_set_token(client.ptr(), token, until, subject, ptr::null_mut(), 0, said, room);
        match RDKafkaErrorCode::from(set) {
            RDKafkaErrorCode::NoError => Ok(()),
            _ => Err(format!("the token: {}", CStr::from_ptr(why.as_ptr()).to_string_lossy())),
        }
    }
}

/// Tells a client that there is no token, and why: it says so by an event, and asks again.
pub fn no_token(client: &NativeClient, why: &CStr) {
    // SAFETY: the client lives; the text ends with a zero and is copied.
    unsafe {
        let _ = sys::rd_kafka_oauthbearer_set_token_failure(client.ptr(), why.as_ptr());
    }
}

unsafe fn reports(event: *mut sys::rd_kafka_event_t) -> Vec<(usize, Result<(), Fault>)> {
    let mut reports = Vec::new();
    // SAFETY: the messages live as long as the event; the number of each is no pointer, and was given with it.
    unsafe {
        while let Some(message) = sys::rd_kafka_event_message_next(event).as_ref() {
            let number = message._private as usize;
            reports.push((number, fault(message.err, None)));
        }
    }
    reports
}

unsafe fn record(event: *mut sys::rd_kafka_event_t) -> Event {
    // SAFETY: the message lives as long as the event. Key and value are null, or have so many bytes.
    unsafe {
        let Some(message) = sys::rd_kafka_event_message_next(event).as_ref() else { return Event::Other };
        match fault(message.err, None) {
            Err(Fault { code: RDKafkaErrorCode::PartitionEOF, .. }) => Event::End(message.partition, message.offset),
            Err(fault) => Event::Failed(fault),
            Ok(()) => Event::Came(Record {
                partition: message.partition,
                offset: message.offset,
                timestamp: u64::try_from(sys::rd_kafka_message_timestamp(message, ptr::null_mut())).ok(),
                key: bytes(message.key.cast(), message.key_len),
                value: bytes(message.payload.cast(), message.len),
                headers: headers(message),
            }),
        }
    }
}

unsafe fn headers(message: *const sys::rd_kafka_message_t) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    let mut list = ptr::null_mut();
    // SAFETY: the list is the message's. Names end with a zero, values have so many bytes, or are null.
    unsafe {
        if sys::rd_kafka_message_headers(message, &mut list) != OK {
            return all;
        }
        for at in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            if sys::rd_kafka_header_get_all(list, at, &mut name, &mut value, &mut size) != OK {
                break;
            }
            all.push((CStr::from_ptr(name).to_bytes().to_vec(), bytes(value.cast(), size)));
        }
    }
    all
}

unsafe fn failed(event: *mut sys::rd_kafka_event_t) -> Event {
    // SAFETY: an error has a text; a partition, if it is one's, is ours to destroy.
    unsafe {
        let text = CStr::from_ptr(sys::rd_kafka_event_error_string(event)).to_string_lossy().into_owned();
        let Err(mut fault) = fault(sys::rd_kafka_event_error(event), Some(text)) else { return Event::Other };
        fault.fatal = sys::rd_kafka_event_error_is_fatal(event) != 0;
        let partition = sys::rd_kafka_event_topic_partition(event);
        let Some(at) = partition.as_ref().map(|partition| (partition.partition, partition.offset)) else {
            return Event::Failed(fault);
        };
        sys::rd_kafka_topic_partition_destroy(partition);
        match fault.code {
            RDKafkaErrorCode::PartitionEOF => Event::End(at.0, at.1),
            _ => Event::Failed(fault),
        }
    }
}

unsafe fn rebalanced(event: *mut sys::rd_kafka_event_t) -> Event {
    use sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS as ASSIGN;
    // SAFETY: the list lives as long as the event, and has so many elements.
    unsafe {
        if sys::rd_kafka_event_error(event) != ASSIGN {
            return Event::Revoked;
        }
        let list = sys::rd_kafka_event_topic_partition_list(event);
        let Some(list) = list.as_ref().filter(|list| list.cnt > 0) else { return Event::Assigned(Vec::new()) };
        let elements = std::slice::from_raw_parts(list.elems, list.cnt as usize);
        Event::Assigned(elements.iter().map(|element| element.partition).collect())
    }
}

unsafe fn described(event: *mut sys::rd_kafka_event_t) -> Result<Topic, Fault> {
    // SAFETY: all that is asked for lives as long as the event; of one topic that was asked about there is one answer.
    unsafe {
        let text = sys::rd_kafka_event_error_string(event);
        let text = (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned());
        fault(sys::rd_kafka_event_error(event), text)?;
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count == 0 {
            let text = "no answer about the topic".to_owned();
            return Err(Fault { code: RDKafkaErrorCode::UnknownTopicOrPartition, text, fatal: false });
        }
        let topic = *topics;
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            let text = CStr::from_ptr(sys::rd_kafka_error_string(error)).to_string_lossy().into_owned();
            fault(sys::rd_kafka_error_code(error), Some(text))?;
        }
        let id = sys::rd_kafka_Uuid_base64str(sys::rd_kafka_TopicDescription_topic_id(topic));
        let id = CStr::from_ptr(id).to_string_lossy().into_owned();
        let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &mut count);
        let partitions = (0..count).map(|at| {
            let partition = *partitions.add(at);
            let mut replicas = 0;
            sys::rd_kafka_TopicPartitionInfo_replicas(partition, &mut replicas);
            (sys::rd_kafka_TopicPartitionInfo_partition(partition), replicas)
        });
        Ok(Topic { id, partitions: partitions.collect() })
    }
}

const OK: sys::rd_kafka_resp_err_t = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

/// An error of the library; `text` is what it says itself, if it says more than which one it is.
fn fault(error: sys::rd_kafka_resp_err_t, text: Option<String>) -> Result<(), Fault> {
    if error == OK {
        return Ok(());
    }
    // SAFETY: the text of every error is there as long as the program runs.
    let plain = || unsafe { CStr::from_ptr(sys::rd_kafka_err2str(error)) }.to_string_lossy().into_owned();
    let text = text.filter(|text| !text.is_empty()).unwrap_or_else(plain);
    Err(Fault { code: error.into(), text, fatal: false })
}

/// Bytes that may be none.
///
/// # Safety
///
/// There are so many, unless it is null.
unsafe fn bytes(start: *const u8, length: usize) -> Option<Vec<u8>> {
    // SAFETY: as the caller says.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start, length) }.to_vec())
}

/// What the group has noted beside the offset of a partition, which may be any bytes.
pub fn note_of(list: &TopicPartitionList, partition: i32) -> Vec<u8> {
    // SAFETY: the list lives, and has so many elements; a note has so many bytes, unless it is null.
    unsafe {
        let Some(list) = list.ptr().as_ref().filter(|list| list.cnt > 0) else { return Vec::new() };
        let elements = std::slice::from_raw_parts(list.elems, list.cnt as usize);
        let element = elements.iter().find(|element| element.partition == partition);
        let note = element.and_then(|element| bytes(element.metadata.cast(), element.metadata_size));
        note.unwrap_or_default()
    }
}
