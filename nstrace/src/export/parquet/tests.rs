//! Tables read again by the crate that wrote them. That others read the same,
//! `xtask/export-check.py` shows.

use std::fs::File;

use nstrace_common::{
    flags::{CLONE_NEWNET, CLONE_NEWUTS},
    kind::Kind,
    wire::{Mark, Op},
};
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::RowAccessor as _,
};

use super::{
    super::testing::{Teller, WALL_OFFSET_NS},
    table::{Type, Value},
    *,
};
use crate::render::testing::{copy, mark, op};

fn files() -> [File; 3] {
    std::array::from_fn(|_| tempfile::tempfile().unwrap())
}

fn exported(tell: impl FnOnce(&mut Teller, &mut Parquet<File>)) -> [SerializedFileReader<File>; 3] {
    let files = files();
    let own = files.each_ref().map(|file| file.try_clone().unwrap());
    let mut parquet = Parquet::new(own).unwrap();
    let mut teller = Teller::default();
    teller.head(&mut parquet);
    tell(&mut teller, &mut parquet);
    teller.finish(&mut parquet);
    files.map(|file| SerializedFileReader::new(file).unwrap())
}

/// Names and types of columns, as tables of docs/parquet.md have them.
fn documented() -> Vec<Vec<(String, String)>> {
    let text = include_str!("../../../../docs/parquet.md");
    let tables = text.split("\n## ").skip(1);
    tables
        .map(|table| {
            let rows = table.lines().filter(|line| line.starts_with("| `"));
            rows.map(|row| {
                let mut cells = row.split('|').skip(1).map(str::trim);
                let name = cells.next().unwrap().trim_matches('`').to_owned();
                (name, cells.next().unwrap().to_owned())
            })
            .collect()
        })
        .collect()
}

fn declared<G: ?Sized>(columns: &[Column<G>]) -> Vec<(String, String)> {
    let of = |column: &Column<G>| match column.of {
        Type::Word | Type::Id => "STRING",
        Type::Number | Type::Measure => "INT64",
        Type::Time => "TIMESTAMP",
        Type::Flag => "BOOLEAN",
    };
    let all = columns.iter();
    all.map(|column| (column.name.clone(), of(column).to_owned()))
        .collect()
}

#[test]
fn the_document_has_every_column() {
    let expected = [
        declared(&columns::operations()),
        declared(&columns::stages()),
        declared(&columns::namespaces()),
    ];
    assert_eq!(documented(), expected);
}

#[test]
fn an_operation_is_a_row_with_its_stages() {
    let [operations, stages, namespaces] = exported(|teller, parquet| {
        teller.cgroup(parquet, 7, b"/demo\xff");
        teller.found(parquet, 600, Kind::Net, 5);
        let built = op(Op::Unshare, CLONE_NEWUTS | CLONE_NEWNET)
            .marks(&[
                (400, mark(Mark::CreateNewNamespaces)),
                (500, copy(Kind::Uts)),
                (2000, copy(Kind::Net)),
            ])
            .failed(libc::ENOSPC)
            .in_create()
            .with(|record| record.cgroup = 7);
        teller.op(parquet, built.get());
    });
    let rows: Vec<String> = [operations, stages, namespaces]
        .iter()
        .flat_map(|table| table.get_row_iter(None).unwrap())
        .map(|row| {
            let row = row.unwrap();
            let set = row
                .get_column_iter()
                .filter(|(_, field)| field.to_string() != "null");
            let set = set.filter(|(name, _)| !name.ends_with("_before"));
            set.map(|(name, field)| format!("{name}={field}"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    insta::assert_snapshot!(rows.join("\n"), @r#"
    host="web-1" boot_id="b0" kernel="6.12.0" op_id="30cb2b76-1dcd6500-0" time=1795388476000000000 mono_ns=1000000000 took_ns=2100000 op="unshare" flags="NEWUTS|NEWNET" flags_raw=1140850688 ret=-28 failed=true errno="ENOSPC" failed_stage="copy_net_ns" pid=4242 tid=4242 uid=0 comm="runc" cgroup_id=7 cgroup="/demo\xff" container="demo\xff" changed="" mnt_after=4026531841 uts_after=4026531838 ipc_after=4026531839 pid_after=4026531836 net_after=4026531840 user_after=4026531837 cgroup_after=4026531835 time_after=4026531834 stages=3
    host="web-1" boot_id="b0" kernel="6.12.0" op_id="30cb2b76-1dcd6500-0" op="unshare" n=0 stage="create_new_namespaces" depth=0 time=1795388476000000400 mono_ns=1000000400 start_ns=400 took_ns=2099600
    host="web-1" boot_id="b0" kernel="6.12.0" op_id="30cb2b76-1dcd6500-0" op="unshare" n=1 stage="copy_utsname" depth=1 time=1795388476000000500 mono_ns=1000000500 start_ns=500 took_ns=1500
    host="web-1" boot_id="b0" kernel="6.12.0" op_id="30cb2b76-1dcd6500-0" op="unshare" n=2 stage="copy_net_ns" depth=1 time=1795388476000002000 mono_ns=1000002000 start_ns=2000 took_ns=2098000 errno="ENOSPC"
    host="web-1" boot_id="b0" kernel="6.12.0" kind="net" inum=5 since=1795388475000000600 since_mono_ns=600 found=true
    "#);
}

#[test]
fn the_time_of_day_is_in_nanoseconds() {
    let [operations, ..] = exported(|teller, parquet| {
        teller.op(parquet, op(Op::Unshare, 0).get());
    });
    let schema = operations.metadata().file_metadata().schema_descr();
    let at = (0..schema.num_columns()).find(|at| schema.column(*at).name() == "time");
    let at = at.unwrap();
    let printed = format!("{:?}", schema.column(at).logical_type_ref());
    assert!(
        printed.contains("NANOS") && printed.contains("true"),
        "{printed}"
    );
    let row = operations
        .get_row_iter(None)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(row.get_long(at).unwrap(), WALL_OFFSET_NS + 1_000_000_000);
}

#[test]
fn groups_of_rows_are_bounded() {
    let many = op(Op::Unshare, 0);
    let [operations, ..] = exported(|teller, parquet| {
        for _ in 0..65537 {
            teller.op(parquet, many.get());
        }
    });
    let groups = operations.metadata().row_groups().iter();
    let rows: Vec<i64> = groups.map(|group| group.num_rows()).collect();
    assert_eq!(rows.iter().sum::<i64>(), 65537);
    assert!(
        rows.iter().all(|rows| (1..=65536).contains(rows)),
        "{rows:?}"
    );
    assert!(rows.len() > 1, "{rows:?}");
}

#[test]
fn what_is_too_large_is_the_largest() {
    assert_eq!(Value::number(u64::MAX), Value::Number(i64::MAX));
    let [operations, ..] = exported(|teller, parquet| {
        let built = op(Op::Unshare, u64::MAX).with(|record| {
            record.start = u64::MAX;
            record.head.time = 3;
        });
        teller.op(parquet, built.get());
    });
    let row = operations.get_row_iter(None).unwrap().next().unwrap();
    assert!(row.unwrap().to_string().contains("took_ns: 0"));
}

#[test]
fn an_error_of_the_file_is_told() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut parquet = Parquet::new([full(), full(), full()]).unwrap();
    let error = parquet.tables[0].finish().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
}
