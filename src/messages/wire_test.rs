use proptest::prelude::*;

use super::*;

const CAP: usize = 64;

/// A frame that owns its payload.
#[derive(Debug, Clone)]
enum Owned {
    Message(u128, u64, Vec<u8>),
    Answer(u128, u64, Result<Ack, Nack>),
    End(u128),
    Ended(u128, Result<Ack, Nack>),
}

impl Owned {
    fn frame(&self) -> Frame<'_> {
        match *self {
            Self::Message(client, seq, ref payload) => Frame::Message { client, seq, payload },
            Self::Answer(client, seq, answer) => Frame::Answer { client, seq, answer },
            Self::End(client) => Frame::End { client },
            Self::Ended(client, answer) => Frame::Ended { client, answer },
        }
    }

    fn encoded(&self) -> Vec<u8> {
        encoded(&self.frame())
    }
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes).unwrap();
    bytes
}

fn nacks() -> impl Strategy<Value = Nack> {
    let kinds = vec![ErrorKind::Other, ErrorKind::NotFound, ErrorKind::StorageFull, ErrorKind::OutOfMemory];
    prop_oneof![
        any::<(usize, usize)>().prop_map(|(bytes, cap)| Nack::TooLong { bytes, cap }),
        Just(Nack::Empty),
        any::<u64>().prop_map(|expected| Nack::Gap { expected }),
        any::<u64>().prop_map(|oldest| Nack::Expired { oldest }),
        any::<u64>().prop_map(|position| Nack::Differs { position }),
        any::<u64>().prop_map(|ms| Nack::Overloaded { retry_after: Duration::from_millis(ms) }),
        Just(Nack::Full),
        proptest::sample::select(kinds).prop_map(|kind| Nack::Io { kind }),
        Just(Nack::Closing),
    ]
}

fn acks() -> impl Strategy<Value = Ack> {
    let durability = prop_oneof![
        Just(Durability::Sync),
        any::<u64>().prop_map(|ms| Durability::Every(Duration::from_millis(ms))),
        Just(Durability::Os),
    ];
    (any::<u64>(), durability).prop_map(|(position, durability)| Ack { position, durability })
}

fn answers() -> impl Strategy<Value = Result<Ack, Nack>> {
    prop_oneof![acks().prop_map(Ok), nacks().prop_map(Err)]
}

fn frames() -> impl Strategy<Value = Owned> {
    let payload = proptest::collection::vec(any::<u8>(), 0..=CAP);
    prop_oneof![
        (any::<u128>(), any::<u64>(), payload).prop_map(|(client, seq, payload)| Owned::Message(client, seq, payload)),
        (any::<u128>(), any::<u64>(), answers()).prop_map(|(client, seq, answer)| Owned::Answer(client, seq, answer)),
        any::<u128>().prop_map(Owned::End),
        (any::<u128>(), answers()).prop_map(|(client, answer)| Owned::Ended(client, answer)),
    ]
}

/// The frame of these contents, with a right length and checksum.
fn framed(contents: &[u8]) -> Vec<u8> {
    let len = u32::try_from(contents.len()).unwrap().to_be_bytes();
    let checksum = crc32fast::hash(&[&len[..], contents].concat()).to_be_bytes();
    [&len[..], &checksum, contents].concat()
}

proptest! {
    /// R118: what was encoded decodes to what it was, whatever follows it.
    #[test]
    fn frame_decodes_to_what_was_encoded(frames in proptest::collection::vec(frames(), 1..5)) {
        let stream: Vec<u8> = frames.iter().flat_map(Owned::encoded).collect();
        let mut rest = stream.as_slice();
        for sent in &frames {
            let (frame, used) = decode(rest, CAP).unwrap().unwrap();
            prop_assert_eq!(frame, sent.frame());
            prop_assert!(used <= frame_max(CAP));
            rest = &rest[used..];
        }
        prop_assert!(rest.is_empty());
    }

    /// R118: a frame of which the end is missing is waited for, not misread.
    #[test]
    fn every_prefix_of_a_frame_needs_more(sent in frames()) {
        let bytes = sent.encoded();
        for end in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..end], CAP), Ok(None));
        }
    }

    /// R118: a flipped bit is an error, or makes the frame longer than what is there.
    #[test]
    fn no_flipped_bit_goes_unseen(sent in frames()) {
        let bytes = sent.encoded();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(decode(&damaged, CAP), Ok(Some(_))), "bit {bit}");
        }
    }

    /// R118: bytes of any kind are answered, and what is taken has only this one encoding.
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200), cap in 0..300_usize) {
        if let Ok(Some((frame, used))) = decode(&bytes, cap) {
            prop_assert_eq!(encoded(&frame), &bytes[..used]);
        }
    }

    /// R118: the same of contents behind a right checksum.
    #[test]
    fn any_contents_are_answered(
        kind in 0..9_u8, reason in 0..10_u8, seq in any::<bool>(),
        fields in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..30), cap in 0..64_usize,
    ) {
        let contents = [&[kind][..], &[7; 16], &[0; 8][..if seq { 8 } else { 0 }], &[reason], &fields].concat();
        let bytes = framed(&contents);
        match decode(&bytes, cap) {
            Ok(Some((frame, used))) => {
                prop_assert_eq!(encoded(&frame), &bytes[..used]);
                if let Frame::Message { payload, .. } = frame {
                    prop_assert!(payload.len() <= cap);
                }
            }
            Ok(None) => prop_assert!(false, "all of it is there"),
            Err(error) => {
                let wrong = matches!(error, WireError::Malformed { .. } | WireError::TooLong { .. });
                prop_assert!(wrong, "{error}");
            }
        }
    }
}

/// R118: the bytes are those of the table in the documentation.
#[test]
fn frames_are_as_documented() {
    let message = encoded(&Frame::Message { client: 0x0102, seq: 3, payload: b"ab" });
    assert_eq!(message[..4], [0, 0, 0, 27]);
    assert_eq!(message[4..8], crc32fast::hash(&[&message[..4], &message[8..]].concat()).to_be_bytes());
    let client = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2];
    assert_eq!(message[8..], [&[1][..], &client, &[0, 0, 0, 0, 0, 0, 0, 3], b"ab"].concat());
    let of = |frame: Frame<'_>| encoded(&frame)[8..].to_vec();
    let every = Ack { position: 9, durability: Durability::Every(Duration::from_micros(1_500)) };
    let every = of(Frame::Answer { client: 0x0102, seq: 3, answer: Ok(every) });
    let numbers = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
    assert_eq!(every, [&[2][..], &client, &numbers(&[3, 9]), &[1], &numbers(&[2])].concat(), "rounded up");
    let nack = Nack::TooLong { bytes: 70, cap: 64 };
    let nack = of(Frame::Answer { client: 0x0102, seq: 3, answer: Err(nack) });
    assert_eq!(nack, [&[3][..], &client, &numbers(&[3]), &[1], &numbers(&[70, 64])].concat());
    assert_eq!(of(Frame::End { client: 0x0102 }), [&[4][..], &client].concat());
    let ended = of(Frame::Ended { client: 0x0102, answer: Ok(Ack { position: 9, durability: Durability::Os }) });
    assert_eq!(ended, [&[5][..], &client, &numbers(&[9]), &[2], &numbers(&[0])].concat());
    let not = of(Frame::Ended { client: 0x0102, answer: Err(Nack::Io { kind: ErrorKind::PermissionDenied }) });
    assert_eq!(not, [&[6][..], &client, &[7, 2]].concat());
}

/// R118: every kind of I/O error has a number of its own, which no later version may change.
#[test]
fn kinds_of_io_errors_come_back_as_they_were() {
    let of = |number: u8| framed(&[&[6][..], &[0; 16], &[7, number]].concat());
    let kinds: Vec<ErrorKind> = (0..=38)
        .map(|number| {
            let bytes = of(number);
            let (frame, _) = decode(&bytes, CAP).unwrap().unwrap();
            assert_eq!(encoded(&frame), bytes);
            let Frame::Ended { answer: Err(Nack::Io { kind }), .. } = frame else {
                panic!("not an I/O error: {frame:?}")
            };
            kind
        })
        .collect();
    let distinct: std::collections::HashSet<ErrorKind> = kinds.iter().copied().collect();
    assert_eq!(distinct.len(), kinds.len());
    assert_eq!((kinds[0], kinds[1], kinds[24], kinds[38]), {
        (ErrorKind::Other, ErrorKind::NotFound, ErrorKind::StorageFull, ErrorKind::OutOfMemory)
    });
    assert!(matches!(decode(&of(39), CAP), Err(WireError::Malformed { .. })));
}

/// R118: a length out of bounds is refused from its four bytes alone, whatever it would make one wait for.
#[test]
fn length_out_of_bounds_is_refused_before_the_rest_is_there() {
    let limit = frame_max(CAP);
    let head = |len: u32| len.to_be_bytes();
    let longest = u32::try_from(limit - 8).unwrap();
    assert_eq!(decode(&head(longest), CAP), Ok(None));
    let bytes = limit as u64 + 1;
    assert_eq!(decode(&head(longest + 1), CAP), Err(WireError::TooLong { bytes, limit }));
    let bytes = u64::from(u32::MAX) + 8;
    assert_eq!(decode(&head(u32::MAX), CAP), Err(WireError::TooLong { bytes, limit }));
    assert_eq!(decode(&head(16), CAP), Err(WireError::TooShort { bytes: 24 }));
    assert_eq!(decode(&head(0), CAP), Err(WireError::TooShort { bytes: 8 }));
}

/// R118: the cap is the longest payload; one byte more is an error, also where an answer could be as long.
#[test]
fn payload_is_taken_up_to_the_cap() {
    for cap in [0, 1, 16, 17, 18, 256, 4096] {
        let long = vec![7; cap + 1];
        let fits = encoded(&Frame::Message { client: 1, seq: 1, payload: &long[..cap] });
        assert!(matches!(decode(&fits, cap), Ok(Some(_))), "cap {cap}");
        let longer = encoded(&Frame::Message { client: 1, seq: 1, payload: &long });
        assert!(decode(&longer, cap).is_err(), "cap {cap}");
        let refusal = Err(Nack::TooLong { bytes: cap + 1, cap });
        let refusal = encoded(&Frame::Answer { client: 1, seq: 1, answer: refusal });
        assert!(matches!(decode(&refusal, cap), Ok(Some(_))), "an answer is not bound by the cap {cap}");
    }
}
