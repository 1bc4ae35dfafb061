use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::device::{FileDevice, MemoryDevice};

/// An entry with its body owned, to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    position: u64,
    next: u64,
    time: GroupTime,
    kind: u8,
    pallet: u32,
    body: Vec<u8>,
}

/// A journal of some groups, and what is known of it.
struct Sample {
    bytes: Vec<u8>,
    base: u64,
    entries: Vec<Seen>,
    /// Positions of all frames, and of the end.
    frames: Vec<u64>,
    /// Positions of the group frames.
    groups: Vec<u64>,
}

impl Sample {
    fn end(&self) -> u64 {
        *self.frames.last().unwrap()
    }

    fn offset(&self, position: u64) -> usize {
        usize::try_from(position - self.base).unwrap() + HEADER
    }

    /// The entries whose frames end at or before the file's `offset`.
    fn whole(&self, offset: usize) -> &[Seen] {
        let count = self.entries.iter().filter(|entry| self.offset(entry.next) <= offset).count();
        &self.entries[..count]
    }

    /// Position of the first frame that does not end at or before the file's `offset`.
    fn first_broken(&self, offset: usize) -> u64 {
        *self.frames.iter().rfind(|&&position| self.offset(position) <= offset).unwrap()
    }
}

fn time(index: u64) -> GroupTime {
    GroupTime { hub_ms: 1000 + index, wall_ms: -5 - i64::try_from(index).unwrap() }
}

fn sample(base: u64, sizes: &[&[usize]], sync_each: bool) -> Sample {
    let device = MemoryDevice::new();
    let mut journal = JournalFile::create(Box::new(device.clone()), Purpose::Hub, base, 77).unwrap();
    let mut sample = Sample { bytes: vec![], base, entries: vec![], frames: vec![], groups: vec![] };
    let mut group = Group::new();
    for (index, sizes) in sizes.iter().enumerate() {
        let index = index as u64;
        group.begin(time(index), 3);
        for (nth, &size) in sizes.iter().enumerate() {
            let kind = u8::try_from(nth + 1).unwrap();
            group
                .push(kind, 9, |buf| {
                    buf.extend((0x41..=0x7a).cycle().skip(nth).take(size));
                })
                .unwrap();
        }
        let start = journal.end();
        let mut offsets: Vec<u64> = group.entries().map(|(offset, ..)| start + offset).collect();
        offsets.push(start + group.bytes() as u64);
        sample.groups.push(start);
        sample.frames.push(start);
        sample.frames.extend(&offsets[..sizes.len()]);
        sample.entries.extend(group.entries().zip(&offsets[1..]).map(|((offset, kind, pallet, body), &next)| Seen {
            position: start + offset,
            next,
            time: time(index),
            kind,
            pallet,
            body: body.to_vec(),
        }));
        append(&mut journal, &mut group);
        if sync_each {
            journal.sync().unwrap();
        }
    }
    sample.frames.push(journal.end());
    sample.bytes = device.bytes();
    sample
}

fn small() -> Sample {
    sample(0, &[&[3, 0, 5], &[7], &[2, 4]], true)
}

fn append(journal: &mut JournalFile, group: &mut Group) -> (u64, u64) {
    match journal.append(group) {
        Outcome::Applied { start, end } => (start, end),
        outcome => panic!("{outcome:?}"),
    }
}

fn one_entry(body: &[u8]) -> Group {
    let mut group = Group::new();
    group.push(1, 0, |buf| buf.extend_from_slice(body)).unwrap();
    group
}

type Opened = Result<(JournalFile, Scan), ReplayError<Infallible>>;

fn open_device(device: &MemoryDevice, from: u64, proven: u64) -> (Opened, Vec<Seen>) {
    let mut seen = Vec::new();
    let opened = JournalFile::open(Box::new(device.clone()), Purpose::Hub, from, proven, &mut |entry: Entry<'_>| {
        let Entry { position, next, time, kind, pallet, body, .. } = entry;
        seen.push(Seen { position, next, time, kind, pallet, body: body.to_vec() });
        Ok(())
    });
    (opened, seen)
}

/// Opens the bytes, and checks that an error left them as they were.
fn open(bytes: &[u8], proven: u64) -> (Result<Scan, JournalError>, Vec<Seen>) {
    let device = MemoryDevice::new();
    device.set_bytes(bytes);
    let (opened, seen) = open_device(&device, 0, proven);
    match opened {
        Ok((journal, scan)) => {
            let kept = bytes.len() - usize::try_from(scan.cut.map_or(0, |cut| cut.bytes)).unwrap();
            assert_eq!(device.bytes(), bytes[..kept]);
            assert_eq!((journal.end(), journal.synced()), (scan.end, scan.end));
            (Ok(scan), seen)
        }
        Err(ReplayError::Journal(error)) => {
            assert_eq!(device.bytes(), bytes, "{error}");
            (Err(error), seen)
        }
        Err(ReplayError::Visit(never)) => match never {},
    }
}

fn assert_corrupt_at(result: &Result<Scan, JournalError>, expected: u64) {
    match result {
        Err(JournalError::Corrupt { position, .. }) => assert_eq!(*position, expected),
        other => panic!("{other:?}"),
    }
}

/// Fills in the checksum of the frame at `at`, after its payload was changed by hand.
fn reseal(bytes: &mut [u8], at: usize) {
    let head = Head::decode(bytes[at..].first_chunk().unwrap());
    let payload = &bytes[at + HEAD..at + HEAD + head.payload_len()];
    let head = Head { checksum: checksum(head.len, head.previous, payload), ..head };
    bytes[at..at + HEAD].copy_from_slice(&head.encode());
}

#[test]
fn what_is_appended_is_read_back() {
    let sample = sample(0, &[&[3, 0, 5], &[], &[70_000, 1], &[600_000, 5, 300_000]], true);
    let (result, seen) = open(&sample.bytes, sample.end());
    let scan = result.unwrap();
    assert_eq!(seen, sample.entries);
    let (end, marked) = (sample.end(), scan.marked);
    assert_eq!(marked, sample.entries[5].position, "the last group begins where the ones before are synced");
    let expected = Scan { base: 0, end, entries: 8, groups: 4, last_time: Some(time(3)), marked, cut: None };
    assert_eq!(scan, expected);
}

#[test]
fn journal_without_groups_is_empty() {
    let (result, seen) = open(&sample(5, &[], true).bytes, 5);
    let expected = Scan { base: 5, end: 5, entries: 0, groups: 0, last_time: None, marked: 5, cut: None };
    assert_eq!((result.unwrap(), seen), (expected, vec![]));
}

#[test]
fn layout_is_the_documented_one() {
    let bytes = sample(0x0102, &[&[2]], true).bytes;
    let mut expected = b"CMSRYJNL\0\x04\0\0\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x4d".to_vec();
    let header_crc = crc32fast::hash(&expected).to_be_bytes();
    expected.extend_from_slice(&header_crc);
    let mut payload = b"\x01\x00\0\0\0\0".to_vec();
    payload.extend_from_slice(b"\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x03\xe8\xff\xff\xff\xff\xff\xff\xff\xfb\x03");
    let group_crc = crc32fast::hash(&[b"\0\0\0\x1f".as_slice(), &header_crc, &payload].concat()).to_be_bytes();
    expected.extend_from_slice(&[b"\0\0\0\x1f".as_slice(), &header_crc, &group_crc, &payload].concat());
    let payload = b"\x01\x01\0\0\0\x09AB";
    let entry_crc = crc32fast::hash(&[b"\0\0\0\x08".as_slice(), &group_crc, payload].concat()).to_be_bytes();
    expected.extend_from_slice(&[b"\0\0\0\x08".as_slice(), &group_crc, &entry_crc, payload].concat());
    assert_eq!(bytes, expected);
}

#[test]
fn offsets_in_a_group_are_positions_from_its_start() {
    let device = MemoryDevice::new();
    let mut journal = JournalFile::create(Box::new(device.clone()), Purpose::Hub, 1000, 0).unwrap();
    let mut group = Group::new();
    append(&mut journal, &mut group);
    group.begin(time(1), 0);
    assert!(group.is_empty());
    let offsets = [1, 2, 3].map(|kind| group.push(kind, 4, |buf| buf.resize(buf.len() + 10, kind)).unwrap());
    assert_eq!((group.is_empty(), group.frames(), group.bytes()), (false, 4, 43 + 3 * 28));
    let (start, end) = append(&mut journal, &mut group);
    assert_eq!((start, end), (1043, 1043 + 43 + 3 * 28));
    let (opened, seen) = open_device(&device, 0, 0);
    assert_eq!(opened.unwrap().1.end, end);
    let positions: Vec<u64> = seen.iter().map(|entry| entry.position).collect();
    assert_eq!(positions, offsets.map(|offset| start + offset));
    assert_eq!(seen.last().unwrap().next, end);
}

#[test]
fn entry_longer_than_the_limit_leaves_the_group_as_it_was() {
    let mut group = one_entry(b"before");
    let bytes = group.bytes();
    let error = group
        .push(2, 0, |buf| {
            buf.resize(buf.len() + FRAME_MAX - PREFIX + 1, 1);
        })
        .unwrap_err();
    assert_eq!(error, FrameTooLong { bytes: FRAME_MAX + 1, limit: FRAME_MAX });
    assert_eq!((group.frames(), group.bytes()), (2, bytes));
    group.push(2, 0, |buf| buf.resize(buf.len() + FRAME_MAX - PREFIX, 1)).unwrap();

    let device = MemoryDevice::new();
    append(&mut JournalFile::create(Box::new(device.clone()), Purpose::Hub, 0, 0).unwrap(), &mut group);
    let (opened, seen) = open_device(&device, 0, 0);
    opened.unwrap();
    assert_eq!(seen.iter().map(|entry| entry.body.len()).collect::<Vec<_>>(), [6, FRAME_MAX - PREFIX]);
}

#[test]
#[should_panic(expected = "kind 0 is the group frame's")]
fn entry_of_kind_0_is_refused() {
    let _ = Group::new().push(0, 0, |_| {});
}

#[test]
fn only_entries_from_the_asked_position_on_are_visited() {
    let sample = small();
    let device = MemoryDevice::new();
    device.set_bytes(&sample.bytes);
    for (nth, entry) in sample.entries.iter().enumerate() {
        let (opened, seen) = open_device(&device, entry.position, sample.end());
        assert_eq!(opened.unwrap().1.entries, 6);
        assert_eq!(seen, sample.entries[nth..]);
    }
    let (opened, seen) = open_device(&device, sample.end(), sample.end());
    assert_eq!((opened.unwrap().1.groups, seen), (3, vec![]));
}

#[test]
fn visitors_error_is_passed_through_and_nothing_is_cut() {
    let sample = small();
    let device = MemoryDevice::new();
    device.set_bytes(&sample.bytes[..sample.bytes.len() - 1]);
    let error = JournalFile::open(Box::new(device.clone()), Purpose::Hub, 0, 0, &mut |_| Err("no")).unwrap_err();
    assert!(matches!(error, ReplayError::Visit("no")), "{error}");
    assert_eq!(device.bytes().len(), sample.bytes.len() - 1);
}

#[test]
fn swapped_frames_are_corruption_at_the_first() {
    let sample = sample(0, &[&[4, 4, 1], &[7]], true);
    let [first, second, third] = [1, 2, 3].map(|nth| sample.offset(sample.frames[nth]));
    let mut bytes = sample.bytes.clone();
    bytes[first..third].rotate_left(second - first);
    let (result, seen) = open(&bytes, 0);
    assert_corrupt_at(&result, sample.frames[1]);
    assert!(seen.is_empty());
}

#[test]
fn removed_frame_is_corruption_where_it_was() {
    let sample = small();
    for nth in 0..sample.frames.len() - 1 {
        let (position, next) = (sample.frames[nth], sample.frames[nth + 1]);
        let mut bytes = sample.bytes.clone();
        bytes.drain(sample.offset(position)..sample.offset(next));
        let (result, seen) = open(&bytes, 0);
        assert_eq!(seen, sample.whole(sample.offset(position)), "frame {nth}");
        if position < *sample.groups.last().unwrap() {
            assert_corrupt_at(&result, position);
        } else {
            // Nothing in the file proves that the last group ever was whole.
            assert_eq!(result.unwrap().end, position, "frame {nth}");
        }
        assert!(open(&bytes, sample.end()).0.is_err(), "frame {nth}");
    }
}

#[test]
fn removed_group_is_corruption_where_it_was() {
    let sample = small();
    for pair in sample.groups.windows(2) {
        let mut bytes = sample.bytes.clone();
        bytes.drain(sample.offset(pair[0])..sample.offset(pair[1]));
        assert_corrupt_at(&open(&bytes, 0).0, pair[0]);
    }
}

#[test]
fn duplicated_frame_is_corruption_at_the_second() {
    let sample = small();
    let (start, end) = (sample.offset(sample.frames[1]), sample.offset(sample.frames[2]));
    let mut bytes = sample.bytes.clone();
    bytes.splice(end..end, sample.bytes[start..end].to_vec());
    assert_corrupt_at(&open(&bytes, 0).0, sample.frames[2]);
}

#[test]
fn file_truncated_at_any_byte_keeps_its_whole_frames() {
    let sample = small();
    for len in 0..=sample.bytes.len() {
        let (result, seen) = open(&sample.bytes[..len], 0);
        if len < HEADER {
            assert!(matches!(result, Err(JournalError::Headless)), "{len}: {result:?}");
            continue;
        }
        let scan = result.unwrap();
        assert_eq!(seen, sample.whole(len), "{len}");
        assert_eq!(scan.end, sample.first_broken(len), "{len}");
        let bytes = (len - sample.offset(scan.end)) as u64;
        let cut = Some(Cut { position: scan.end, bytes, valid_after: 0 });
        assert_eq!(scan.cut, cut.filter(|cut| cut.bytes > 0), "{len}");
    }
}

#[test]
fn file_truncated_behind_what_was_proven_is_an_error() {
    let sample = small();
    for len in 0..sample.bytes.len() {
        let (result, _) = open(&sample.bytes[..len], sample.end());
        match result.unwrap_err() {
            JournalError::Truncated { end, proven } if len < HEADER => {
                assert_eq!((end, proven), (0, sample.end()));
            }
            JournalError::Truncated { end, proven } => {
                assert_eq!((sample.offset(end), proven), (len, sample.end()));
            }
            JournalError::Corrupt { position, .. } => {
                assert_eq!(position, sample.first_broken(len));
            }
            error => panic!("{len}: {error}"),
        }
    }
}

#[test]
fn file_zeroed_from_any_byte_keeps_its_whole_frames() {
    let sample = small();
    for from in 0..sample.bytes.len() {
        let mut bytes = sample.bytes.clone();
        bytes[from..].fill(0);
        // Zeros that were there before change nothing.
        let changed = (0..bytes.len()).find(|&at| bytes[at] != sample.bytes[at]).unwrap_or(bytes.len());
        let (result, seen) = open(&bytes, 0);
        if changed < HEADER {
            let expected = matches!(result, Err(JournalError::Corrupt { position: 0, .. } | JournalError::NotAJournal));
            assert!(expected && seen.is_empty(), "{from}: {result:?}");
            continue;
        }
        let scan = result.unwrap();
        assert_eq!(seen, sample.whole(changed), "{from}");
        assert_eq!(scan.end, sample.first_broken(changed), "{from}");
        let cut = Cut { position: scan.end, bytes: sample.end() - scan.end, valid_after: 0 };
        assert_eq!(scan.cut, Some(cut).filter(|cut| cut.bytes > 0), "{from}");
    }
}

#[test]
fn flipped_bit_never_delivers_a_wrong_entry() {
    let sample = small();
    let last = sample.offset(*sample.groups.last().unwrap());
    for bit in 0..sample.bytes.len() * 8 {
        let at = bit / 8;
        let mut bytes = sample.bytes.clone();
        bytes[at] ^= 1 << (bit % 8);
        let (result, seen) = open(&bytes, 0);
        assert!(sample.entries.starts_with(&seen), "bit {bit}");
        match result {
            Err(JournalError::NotAJournal) => assert!(at < MAGIC.len(), "bit {bit}"),
            Err(JournalError::Corrupt { position: 0, .. }) if at < HEADER => {}
            Err(JournalError::Corrupt { position, .. }) => {
                assert_eq!(position, sample.first_broken(at), "bit {bit}");
                assert!(at < last, "bit {bit}");
            }
            Err(error) => panic!("bit {bit}: {error}"),
            Ok(scan) => {
                assert!(at >= last, "bit {bit}");
                assert_eq!(scan.cut.unwrap().position, sample.first_broken(at), "bit {bit}");
            }
        }
        if at >= HEADER {
            assert_corrupt_at(&open(&bytes, sample.end()).0, sample.first_broken(at));
        }
    }
}

#[test]
fn good_frames_behind_a_cut_are_counted() {
    let sample = sample(0, &[&[3], &[1, 2, 3, 4]], true);
    let mut bytes = sample.bytes.clone();
    bytes[sample.offset(sample.frames[3]) + HEAD + PREFIX] ^= 1;
    let scan = open(&bytes, 0).0.unwrap();
    let position = sample.frames[3];
    assert_eq!(scan.cut, Some(Cut { position, bytes: sample.end() - position, valid_after: 3 }));
}

#[test]
fn torn_stretch_of_groups_that_were_not_synced_is_cut() {
    let device = MemoryDevice::new();
    let mut journal = JournalFile::create(Box::new(device.clone()), Purpose::Hub, 0, 0).unwrap();
    append(&mut journal, &mut one_entry(b"kept"));
    journal.sync().unwrap();
    let synced = journal.synced();
    for _ in 0..3 {
        append(&mut journal, &mut one_entry(b"lost"));
    }
    // Of the three groups the disk has written the last two only.
    let mut bytes = device.bytes();
    let at = HEADER + usize::try_from(synced).unwrap();
    bytes[at..at + 50].fill(0);
    let (result, seen) = open(&bytes, synced);
    let scan = result.unwrap();
    assert_eq!((seen.len(), scan.end), (1, synced));
    assert_eq!(scan.cut.unwrap().valid_after, 4);

    // The same damage, once a later group says that the stretch was synced.
    journal.sync().unwrap();
    append(&mut journal, &mut one_entry(b"later"));
    let mut bytes = device.bytes();
    bytes[at..at + 50].fill(0);
    assert_corrupt_at(&open(&bytes, 0).0, synced);
}

/// Of messages nothing but the file knows what was acknowledged: with a good frame behind it, a bad one was no torn tail.
#[test]
fn bad_frame_with_a_good_one_behind_it_is_corruption_of_messages_alone() {
    for (purpose, is_cut) in [(Purpose::Hub, true), (Purpose::Messages, false)] {
        let device = MemoryDevice::new();
        let mut journal = JournalFile::create(Box::new(device.clone()), purpose, 0, 0).unwrap();
        append(&mut journal, &mut one_entry(b"bad"));
        append(&mut journal, &mut one_entry(b"good, and not known to be synced"));
        let mut bytes = device.bytes();
        bytes[HEADER + 43 + HEAD] ^= 1;
        let open = |bytes: &[u8]| {
            let device = Box::new(MemoryDevice::holding(bytes));
            JournalFile::open(device, purpose, 0, 0, &mut |_| Ok::<(), Infallible>(())).map(|(_, scan)| scan.cut)
        };
        match open(&bytes) {
            Ok(cut) => assert!(is_cut && cut.unwrap().valid_after == 2, "{purpose:?}: {cut:?}"),
            Err(ReplayError::Journal(error)) => {
                assert!(!is_cut && matches!(error, JournalError::Corrupt { position: 43, .. }), "{purpose:?}: {error}");
            }
        }
        assert!(open(&bytes[..HEADER + 60]).unwrap().is_some(), "{purpose:?}: with nothing behind it, it is torn");
    }
}

#[test]
fn power_cut_after_any_append_keeps_what_was_synced() {
    let device = MemoryDevice::new();
    let mut journal = JournalFile::create(Box::new(device.clone()), Purpose::Hub, 0, 0).unwrap();
    append(&mut journal, &mut one_entry(b"synced"));
    journal.sync().unwrap();
    append(&mut journal, &mut one_entry(b"not synced"));
    let synced = journal.synced();
    assert!(synced < journal.end());
    device.lose_power();
    let (opened, seen) = open_device(&device, 0, synced);
    assert_eq!(opened.unwrap().1.cut, None);
    assert_eq!(seen.iter().map(|entry| entry.body.as_slice()).collect::<Vec<_>>(), [b"synced"]);
}

#[test]
fn append_failing_after_any_byte_poisons_and_reopening_recovers() {
    let mut group = one_entry(b"second");
    for room in 0..group.bytes() {
        let device = MemoryDevice::new();
        let mut journal = JournalFile::create(Box::new(device.clone()), Purpose::Hub, 0, 0).unwrap();
        append(&mut journal, &mut one_entry(b"first"));
        journal.sync().unwrap();
        device.fail_append_after(room);
        let outcome = journal.append(&mut group);
        assert!(matches!(&outcome, Outcome::Unknown(error) if error.kind() == io::ErrorKind::StorageFull));
        device.heal();
        let outcome = journal.append(&mut group);
        assert!(matches!(&outcome, Outcome::Refused(error) if error.kind() == io::ErrorKind::StorageFull));
        assert!(journal.sync().is_err());
        assert_eq!(journal.end(), journal.synced());

        let proven = journal.synced();
        let (opened, seen) = open_device(&device, 0, proven);
        let (mut journal, scan) = opened.unwrap();
        // A whole group frame without its entry is good, and stays.
        let torn = if room < 43 { room } else { room - 43 };
        assert_eq!((seen.len(), scan.cut.map_or(0, |cut| cut.bytes)), (1, torn as u64));
        append(&mut journal, &mut group);
        journal.sync().unwrap();
        let (opened, seen) = open_device(&device, 0, journal.synced());
        opened.unwrap();
        assert_eq!(
            seen.iter().map(|entry| entry.body.as_slice()).collect::<Vec<_>>(),
            [b"first".as_slice(), b"second"]
        );
    }
}

#[test]
fn failed_sync_poisons() {
    let device = MemoryDevice::new();
    let mut journal = JournalFile::create(Box::new(device.clone()), Purpose::Hub, 0, 0).unwrap();
    device.fail_sync_after(1);
    append(&mut journal, &mut one_entry(b"first"));
    journal.sync().unwrap();
    let synced = journal.synced();
    append(&mut journal, &mut one_entry(b"second"));
    journal.sync().unwrap_err();
    device.heal();
    let error = journal.sync().unwrap_err();
    assert!(error.to_string().contains("the device failed to sync"), "{error}");
    assert!(matches!(journal.append(&mut one_entry(b"third")), Outcome::Refused(_)));
    assert_eq!(journal.synced(), synced);
    device.lose_power();
    let (opened, seen) = open_device(&device, 0, synced);
    opened.unwrap();
    assert_eq!(seen.len(), 1);
}

#[test]
fn opening_fails_when_it_cannot_sync() {
    let device = MemoryDevice::new();
    device.set_bytes(&small().bytes);
    device.fail_sync_after(0);
    let (opened, _) = open_device(&device, 0, 0);
    assert!(matches!(opened, Err(ReplayError::Journal(JournalError::Io(_)))));
}

#[test]
fn positions_start_at_the_base() {
    let base = 1 << 40;
    let sample = sample(base, &[&[3], &[4, 5]], true);
    let (result, seen) = open(&sample.bytes, sample.end());
    assert_eq!((result.unwrap().base, seen.first().unwrap().position), (base, base + 43));
    assert_eq!(seen, sample.entries);
    let mut bytes = sample.bytes.clone();
    *bytes.last_mut().unwrap() ^= 1;
    assert_corrupt_at(&open(&bytes, sample.end()).0, sample.frames[4]);
    assert_eq!(open(&bytes, sample.frames[4]).0.unwrap().end, sample.frames[4]);
}

/// What a file is begun anew with is whole up to its seal, or the file is refused; after the seal the usual rules hold.
#[test]
fn file_begun_anew_is_torn_only_after_its_seal() {
    let device = MemoryDevice::new();
    let mut journal = JournalFile::refound(Box::new(device.clone()), Purpose::Hub, 1_000, 77).unwrap();
    append(&mut journal, &mut one_entry(b"a"));
    append(&mut journal, &mut one_entry(b"b"));
    let sealed_from = journal.end();
    journal.seal(time(1), 0).unwrap();
    let sealed = journal.end();
    append(&mut journal, &mut one_entry(b"c"));
    assert_eq!((sealed - sealed_from, journal.synced()), (43, sealed));
    let header = JournalFile::header(&mut device.clone()).unwrap().unwrap();
    assert!(header.base == 1_000 && header.refounded && header.is_whole());
    let bytes = device.bytes();
    for len in HEADER..bytes.len() {
        let end = 1_000 + (len - HEADER) as u64;
        let (result, seen) = open(&bytes[..len], 0);
        if end < sealed {
            assert!(matches!(result, Err(JournalError::Corrupt { .. })), "{len}: {result:?}");
        } else {
            assert!((sealed..=end).contains(&result.unwrap().end), "{len}");
            assert_eq!(seen.len(), 2, "{len}: the last entry is torn");
        }
    }
}

/// The seal stands behind a group that was synced, wherever the positions begin.
#[test]
fn file_begun_anew_with_nothing_is_sealed() {
    for base in [0, 1, 1_000] {
        let device = MemoryDevice::new();
        let mut journal = JournalFile::refound(Box::new(device.clone()), Purpose::Hub, base, 0).unwrap();
        journal.seal(time(0), 0).unwrap();
        let (result, seen) = open(&device.bytes(), journal.end());
        assert_eq!((result.unwrap().groups, seen), (2, vec![]), "base {base}");
    }
}

#[test]
fn unknown_flag_is_corruption() {
    let mut bytes = small().bytes;
    bytes[11] |= 4;
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_be_bytes());
    assert_corrupt_at(&open(&bytes, 0).0, 0);
}

#[test]
fn base_without_room_for_the_file_is_corruption() {
    let sample = sample(u64::MAX - 10, &[], true);
    assert_corrupt_at(&open(&sample.bytes, 0).0, 0);
    let mut journal = JournalFile::create(Box::new(MemoryDevice::new()), Purpose::Hub, u64::MAX - 10, 0).unwrap();
    assert!(matches!(journal.append(&mut one_entry(b"")), Outcome::Refused(_)));
}

#[test]
fn reopening_twice_finds_the_same() {
    let sample = small();
    let device = MemoryDevice::new();
    device.set_bytes(&sample.bytes[..sample.bytes.len() - 3]);
    let (opened, first) = open_device(&device, 0, 0);
    let first_scan = opened.unwrap().1;
    assert!(first_scan.cut.is_some());
    for _ in 0..2 {
        let (opened, seen) = open_device(&device, 0, first_scan.end);
        assert_eq!(opened.unwrap().1, Scan { cut: None, ..first_scan.clone() });
        assert_eq!(seen, first);
    }
}

#[test]
fn first_group_after_opening_claims_what_was_found() {
    let device = MemoryDevice::new();
    let mut journal = JournalFile::create(Box::new(device.clone()), Purpose::Hub, 0, 0).unwrap();
    append(&mut journal, &mut one_entry(b"first"));
    let (opened, _) = open_device(&device, 0, 0);
    let mut journal = opened.unwrap().0;
    append(&mut journal, &mut one_entry(b"second"));
    let mut bytes = device.bytes();
    bytes[HEADER + 43 + HEAD] ^= 1;
    assert_corrupt_at(&open(&bytes, 0).0, 43);
}

#[test]
fn creating_over_something_is_refused() {
    let device = MemoryDevice::new();
    device.set_bytes(b"x");
    let error = JournalFile::create(Box::new(device.clone()), Purpose::Hub, 0, 0).unwrap_err();
    assert!(matches!(error, JournalError::NotEmpty { bytes: 1 }), "{error}");
    assert_eq!(device.bytes(), b"x");
}

/// A file may be cut off behind its writer's back, at the end of a whole group.
#[test]
fn what_is_read_again_ends_where_it_was_written_to() {
    let sample = small();
    let device = MemoryDevice::holding(&sample.bytes);
    let (mut journal, _) = open_device(&device, 0, 0).0.unwrap();
    let mut reread = || {
        let mut entries = 0;
        let visit = &mut |_: Entry<'_>| {
            entries += 1;
            Ok::<_, Infallible>(())
        };
        journal.reread(visit).map(|()| entries).map_err(|error| error.to_string())
    };
    assert_eq!(reread(), Ok(sample.entries.len()));
    device.set_bytes(&sample.bytes[..sample.offset(sample.groups[2])]);
    let refused = reread().unwrap_err();
    assert!(refused.contains("the file does not end where it was written to"), "{refused}");
}

#[test]
fn file_of_somebody_else_is_not_a_journal() {
    for bytes in [b"hello".as_slice(), b"CMSRYJNX", &[b'x'; 32], &[b'y'; 500]] {
        assert!(matches!(open(bytes, 0).0, Err(JournalError::NotAJournal)));
    }
}

#[test]
fn torn_creation_is_headless_and_zeros_before_something_are_corruption() {
    for len in [0, 1, 31, 32] {
        assert!(matches!(open(&vec![0; len], 0).0, Err(JournalError::Headless)));
        assert!(matches!(open(&vec![0; len], 9).0, Err(JournalError::Truncated { end: 0, proven: 9 })));
    }
    assert_corrupt_at(&open(&[0; 33], 0).0, 0);
}

/// A device of which the length is all that can be had.
#[derive(Debug)]
struct Unreadable(u64);

impl ReadAt for Unreadable {
    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("unreadable"))
    }
}

impl Device for Unreadable {
    fn len(&mut self) -> io::Result<u64> {
        Ok(self.0)
    }

    fn reader(&self) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(Self(self.0)))
    }

    fn append(&mut self, _: &[u8]) -> io::Result<()> {
        unreachable!("it is only looked at")
    }

    fn sync(&mut self) -> io::Result<()> {
        unreachable!("it is only looked at")
    }

    fn truncate(&mut self, _: u64) -> io::Result<()> {
        unreachable!("it is only looked at")
    }
}

/// Who is told that it is headless writes over it.
#[test]
fn headless_is_only_what_was_torn_in_its_creation() {
    let is_headless = |bytes: &[u8]| JournalFile::is_headless(&mut MemoryDevice::holding(bytes)).unwrap();
    assert!([0, 1, 31, 32].into_iter().all(|len| is_headless(&vec![0; len])));
    assert!(is_headless(&small().bytes[..9]));
    let mut damaged = small().bytes;
    damaged[20] ^= 1;
    assert!(![&small().bytes, &damaged, b"hello".as_slice(), &[0; 33]].into_iter().any(is_headless));
    for len in [9, 32, 500] {
        assert!(matches!(JournalFile::is_headless(&mut Unreadable(len)), Err(JournalError::Io(_))), "{len}");
    }
}

#[test]
fn other_versions_are_named() {
    let sample = small();
    let mut bytes = sample.bytes.clone();
    bytes[9] = 1;
    let crc = crc32fast::hash(&bytes[..HEADER - 4]).to_be_bytes();
    bytes[HEADER - 4..HEADER].copy_from_slice(&crc);
    let error = open(&bytes, 0).0.unwrap_err();
    assert!(matches!(error, JournalError::Version { found: 1, supported: FORMAT_VERSION, position: 0 }), "{error}");

    let mut bytes = sample.bytes.clone();
    let at = sample.offset(sample.frames[1]);
    bytes[at + HEAD] = 7;
    reseal(&mut bytes, at);
    let (result, seen) = open(&bytes, 0);
    let expected = sample.frames[1];
    assert!(matches!(result, Err(JournalError::Version { found: 7, supported: 1, position }) if position == expected));
    assert!(seen.is_empty());
}

#[test]
fn entry_before_any_group_is_corruption() {
    let sample = sample(0, &[&[3]], true);
    let mut bytes = sample.bytes.clone();
    bytes[HEADER + HEAD + 1] = 1;
    reseal(&mut bytes, HEADER);
    assert_corrupt_at(&open(&bytes, 0).0, 0);
}

#[test]
fn group_that_was_synced_before_it_was_written_is_corruption() {
    let sample = sample(0, &[&[3]], true);
    let mut bytes = sample.bytes.clone();
    bytes[HEADER + GROUP_SYNCED_TO.end - 1] = 1;
    reseal(&mut bytes, HEADER);
    assert_corrupt_at(&open(&bytes, 0).0, 0);
}

#[test]
fn group_of_a_time_that_no_clock_comes_to_is_corruption() {
    let opened = |hub_ms| {
        let device = MemoryDevice::new();
        let mut journal = JournalFile::create(Box::new(device.clone()), Purpose::Hub, 0, 0).unwrap();
        let mut group = Group::new();
        group.begin(GroupTime { hub_ms, wall_ms: 0 }, 0);
        append(&mut journal, &mut group);
        open(&device.bytes(), 0).0
    };
    assert_eq!(opened(HUB_MS_MAX).unwrap().last_time.map(|time| time.hub_ms), Some(HUB_MS_MAX));
    for beyond in [HUB_MS_MAX + 1, HUB_MS_MAX + 2, u64::MAX] {
        assert_corrupt_at(&opened(beyond), 0);
    }
}

#[test]
fn length_past_the_end_allocates_no_more_than_the_file_holds() {
    let sample = small();
    let mut bytes = sample.bytes.clone();
    let last = sample.offset(sample.frames[sample.frames.len() - 2]);
    bytes[last..last + 4].copy_from_slice(&u32::try_from(FRAME_MAX).unwrap().to_be_bytes());
    assert_eq!(sample.offset(open(&bytes, 0).0.unwrap().end), last);

    let mut device = MemoryDevice::new();
    device.append(&bytes).unwrap();
    let len = device.len().unwrap();
    let mut window = Window::new(&device, len);
    assert!(matches!(window.frame(last as u64).unwrap(), Sight::Bad("the file ends within a frame")));
    assert!(window.bytes.capacity() <= bytes.len());
}

#[test]
fn search_of_made_up_frames_is_bounded_and_still_finds_groups() {
    // Every fifth byte looks like the head of a frame of 256 KiB, whose checksum would have to be computed.
    let made_up = [0, 4, 1, 7, 0].repeat(200 << 10);
    let sample = sample(0, &[&[3], &[4]], true);
    let last = sample.offset(sample.groups[1]);
    let bytes = [&sample.bytes[..last], &made_up, &sample.bytes[last..]].concat();
    let mut device = MemoryDevice::new();
    device.append(&bytes).unwrap();
    let mut reader = Reader::open(&mut device, 0).unwrap();
    reader.walk::<Infallible>(0, &mut |_| Ok(())).unwrap().unwrap();
    assert_eq!(reader.position(), sample.groups[1]);
    // The last group claims no more than what stands before the bad bytes. It and its small entry are still counted.
    let search = reader.search(sample.groups[1]).unwrap();
    assert!(!search.synced_later && search.allowance.0 < 1 << 18);
    assert_eq!(search.frames, 2);
    assert!(reader.search(sample.groups[1] - 1).unwrap().synced_later);
}

#[test]
fn journal_in_a_file_is_locked_and_lasts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let mut journal = JournalFile::create(Box::new(FileDevice::open(&path).unwrap()), Purpose::Hub, 0, 0).unwrap();
    append(&mut journal, &mut one_entry(b"lasting"));
    journal.sync().unwrap();
    FileDevice::open(&path).unwrap_err();
    let end = journal.end();
    drop(journal);

    let mut torn = FileDevice::open(&path).unwrap();
    torn.append(b"torn").unwrap();
    let mut bodies = Vec::new();
    let mut visit = |entry: Entry<'_>| {
        bodies.push(entry.body.to_vec());
        Ok::<(), Infallible>(())
    };
    let (_, scan) = JournalFile::open(Box::new(torn), Purpose::Hub, 0, end, &mut visit).unwrap();
    assert_eq!(scan.cut, Some(Cut { position: end, bytes: 4, valid_after: 0 }));
    assert_eq!(bodies, [b"lasting"]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), end + HEADER as u64);
}

#[test]
fn errors_name_positions_and_limits() {
    let error = JournalError::Corrupt { position: 12, what: "a frame's checksum does not match" };
    assert_eq!(error.to_string(), "journal is corrupt at position 12: a frame's checksum does not match");
    let error = ReplayError::<Infallible>::from(JournalError::Truncated { end: 3, proven: 9 });
    assert_eq!(error.to_string(), "journal ends at position 3, and was durable up to 9");
    let error = FrameTooLong { bytes: 20, limit: 10 };
    assert_eq!(error.to_string(), "entry of 20 bytes is longer than the journal's limit of 10");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), proven in 0..400_u64) {
        let (_, seen) = open(&bytes, proven);
        prop_assert!(seen.is_empty());
    }

    #[test]
    fn random_bytes_after_a_good_start_are_cut_or_reported(
        tail in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 1..300),
    ) {
        let sample = small();
        let (result, seen) = open(&[sample.bytes.as_slice(), &tail].concat(), sample.end());
        prop_assert_eq!(seen, sample.entries.clone());
        prop_assert_eq!(result.unwrap().end, sample.end());
    }

    #[test]
    fn replaced_stretch_never_delivers_a_wrong_entry(
        at in any::<prop::sample::Index>(),
        removed in 0..60_usize,
        inserted in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let sample = small();
        let mut bytes = sample.bytes.clone();
        let at = at.index(bytes.len());
        let end = (at + removed).min(bytes.len());
        bytes.splice(at..end, inserted);
        let (result, seen) = open(&bytes, 0);
        prop_assert!(sample.entries.starts_with(&seen));
        let mended = bytes.starts_with(&sample.bytes);
        prop_assert_eq!(open(&bytes, sample.end()).0.is_ok(), mended);
        prop_assert!(result.is_err() || mended || end >= sample.offset(sample.groups[2]));
    }

    #[test]
    fn any_groups_are_read_back(
        sizes in proptest::collection::vec(proptest::collection::vec(0..200_usize, 0..5), 0..6),
    ) {
        let sizes: Vec<&[usize]> = sizes.iter().map(Vec::as_slice).collect();
        let sample = sample(7, &sizes, false);
        let (result, seen) = open(&sample.bytes, sample.end());
        prop_assert_eq!(result.unwrap().cut, None);
        prop_assert_eq!(seen, sample.entries);
    }
}

#[test]
fn positions_end_where_opening_could_not_count_them_any_more() {
    let device = MemoryDevice::new();
    let base = u64::MAX - 300;
    let mut journal = JournalFile::create(Box::new(device.clone()), Purpose::Messages, base, 0).unwrap();
    let mut group = Group::new();
    let refused = (0..20).find(|_| {
        group.begin(time(1), 0);
        group.push(1, 0, |buf| buf.extend_from_slice(&[7; 9])).unwrap();
        matches!(journal.append(&mut group), Outcome::Refused(_))
    });
    assert_eq!(refused, Some(3), "what is left does not hold another");
    let end = journal.end();
    let opened = JournalFile::open(Box::new(device), Purpose::Messages, 0, 0, &mut |_| Ok::<(), ()>(()));
    assert_eq!(opened.unwrap().1.end, end);
}
