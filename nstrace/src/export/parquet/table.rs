//! A table of Parquet: rows gather, and are written in groups.

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::Arc,
};

use parquet::{
    basic::{Compression, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical},
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::{
        properties::{WriterProperties, WriterPropertiesPtr},
        writer::SerializedFileWriter,
    },
    schema::types::{ColumnPath, Type as Schema, TypePtr},
};

/// A group of rows is written when it has so many, or so many bytes.
const ROWS_MAX: usize = 65536;
const BYTES_MAX: usize = 32 << 20;

/// What a column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// UTF-8, few of them: each is stored once in a group of rows.
    Word,
    /// UTF-8, each like the one before.
    Id,
    /// 64 bits with a sign, few of them.
    Number,
    /// The same, hardly two alike.
    Measure,
    /// A time of day, in ns since 1970 in UTC.
    Time,
    /// Whether something is so.
    Flag,
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'v> {
    /// Nothing: NULL.
    None,
    /// Of types [`Type::Word`] and [`Type::Id`].
    Text(Cow<'v, str>),
    /// Of types [`Type::Number`], [`Type::Measure`] and [`Type::Time`].
    Number(i64),
    /// Of type [`Type::Flag`].
    Flag(bool),
}

impl Value<'_> {
    /// A number; what is too large for the format is the largest.
    pub fn number(value: impl Into<u64>) -> Value<'static> {
        Value::Number(i64::try_from(value.into()).unwrap_or(i64::MAX))
    }

    /// A number of which zero stands for nothing.
    pub fn some(value: impl Into<u64>) -> Value<'static> {
        match value.into() {
            0 => Value::None,
            value => Value::number(value),
        }
    }
}

impl<'v, T: Into<Value<'v>>> From<Option<T>> for Value<'v> {
    fn from(value: Option<T>) -> Value<'v> {
        value.map_or(Value::None, Into::into)
    }
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(text: &'v str) -> Value<'v> {
        Value::Text(Cow::Borrowed(text))
    }
}

impl<'v> From<&'v String> for Value<'v> {
    fn from(text: &'v String) -> Value<'v> {
        Value::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::Text(Cow::Owned(text))
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Value::Flag(flag)
    }
}

/// A column, and how to get its value from what a row is made of.
pub struct Column<Get: ?Sized> {
    /// What it is called.
    pub name: String,
    /// What is in it.
    pub of: Type,
    /// Its value.
    pub get: Box<Get>,
}

/// The values of a column in the group of rows that gathers, without those that are none.
enum Values {
    Text(Vec<ByteArray>),
    Number(Vec<i64>),
    Flag(Vec<bool>),
}

struct Gathered {
    values: Values,
    /// For each row 1, or 0 if its value is none.
    levels: Vec<i16>,
}

/// Writes a table.
pub struct Table<W: Write + Send> {
    /// None once it is whole.
    writer: Option<SerializedFileWriter<W>>,
    gathered: Vec<Gathered>,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> Table<W> {
    /// An empty table with those columns.
    pub fn new<G: ?Sized>(out: W, name: &str, columns: &[Column<G>]) -> io::Result<Table<W>> {
        let schema = schema(name, columns).map_err(broken)?;
        let writer = SerializedFileWriter::new(out, schema, properties(columns));
        let gathered = columns.iter().map(Gathered::new).collect();
        Ok(Table {
            writer: Some(writer.map_err(broken)?),
            gathered,
            rows: 0,
            bytes: 0,
        })
    }

    /// Adds a row, with a value for each column.
    pub fn row<'v>(&mut self, values: impl Iterator<Item = Value<'v>>) -> io::Result<()> {
        for (gathered, value) in self.gathered.iter_mut().zip(values) {
            self.bytes += gathered.push(value);
        }
        self.rows += 1;
        match self.rows >= ROWS_MAX || self.bytes >= BYTES_MAX {
            true => self.write(),
            false => Ok(()),
        }
    }

    /// Writes what has gathered.
    fn write(&mut self) -> io::Result<()> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let gathered = &mut self.gathered;
        group(writer, gathered).map_err(broken)?;
        gathered.iter_mut().for_each(Gathered::clear);
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    /// Writes what is left, and where everything is.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.rows > 0 {
            self.write()?;
        }
        match self.writer.take() {
            Some(writer) => writer.close().map(drop).map_err(broken),
            None => Ok(()),
        }
    }
}

/// Writes a group of rows.
fn group<W: Write + Send>(
    writer: &mut SerializedFileWriter<W>,
    gathered: &[Gathered],
) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    let mut all = gathered.iter();
    while let Some(mut column) = group.next_column()? {
        let Some(Gathered { values, levels }) = all.next() else {
            break;
        };
        let levels = Some(&levels[..]);
        match values {
            Values::Text(values) => column
                .typed::<ByteArrayType>()
                .write_batch(values, levels, None)?,
            Values::Number(values) => column
                .typed::<Int64Type>()
                .write_batch(values, levels, None)?,
            Values::Flag(values) => column
                .typed::<BoolType>()
                .write_batch(values, levels, None)?,
        };
        column.close()?;
    }
    group.close().map(drop)
}

impl Gathered {
    fn new<G: ?Sized>(column: &Column<G>) -> Gathered {
        let values = match column.of {
            Type::Word | Type::Id => Values::Text(Vec::new()),
            Type::Number | Type::Measure | Type::Time => Values::Number(Vec::new()),
            Type::Flag => Values::Flag(Vec::new()),
        };
        Gathered {
            values,
            levels: Vec::new(),
        }
    }

    /// Adds the value of a row, and says how many bytes that takes.
    fn push(&mut self, value: Value) -> usize {
        let level = match (&mut self.values, value) {
            (Values::Text(values), Value::Text(text)) => {
                let bytes = size_of::<ByteArray>() + text.len();
                values.push(text.into_owned().into_bytes().into());
                self.levels.push(1);
                return bytes;
            }
            (Values::Number(values), Value::Number(number)) => {
                values.push(number);
                1
            }
            (Values::Flag(values), Value::Flag(flag)) => {
                values.push(flag);
                1
            }
            (_, value) => {
                debug_assert_eq!(value, Value::None);
                0
            }
        };
        self.levels.push(level);
        size_of::<i64>()
    }

    fn clear(&mut self) {
        match &mut self.values {
            Values::Text(values) => values.clear(),
            Values::Number(values) => values.clear(),
            Values::Flag(values) => values.clear(),
        }
        self.levels.clear();
    }
}

fn schema<G: ?Sized>(name: &str, columns: &[Column<G>]) -> Result<TypePtr, ParquetError> {
    let fields = columns.iter().map(|column| {
        let (physical, logical) = match column.of {
            Type::Word | Type::Id => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Type::Number | Type::Measure => (Physical::INT64, None),
            Type::Time => {
                let time = LogicalType::timestamp(true, TimeUnit::NANOS);
                (Physical::INT64, Some(time))
            }
            Type::Flag => (Physical::BOOLEAN, None),
        };
        let field = Schema::primitive_type_builder(&column.name, physical)
            .with_logical_type(logical)
            .with_repetition(Repetition::OPTIONAL);
        Ok(Arc::new(field.build()?))
    });
    let fields: Result<Vec<TypePtr>, ParquetError> = fields.collect();
    let schema = Schema::group_type_builder(name).with_fields(fields?);
    Ok(Arc::new(schema.build()?))
}

fn properties<G: ?Sized>(columns: &[Column<G>]) -> WriterPropertiesPtr {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("nstrace ", env!("CARGO_PKG_VERSION")).to_owned())
        // What every reader has.
        .set_compression(Compression::SNAPPY);
    for column in columns {
        let encoding = match column.of {
            Type::Word | Type::Number | Type::Flag => continue,
            Type::Id => Encoding::DELTA_BYTE_ARRAY,
            Type::Measure | Type::Time => Encoding::DELTA_BINARY_PACKED,
        };
        let path = ColumnPath::from(column.name.as_str());
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, encoding);
    }
    Arc::new(properties.build())
}

/// The error of what was written to, if it is one.
fn broken(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        error => io::Error::other(error),
    }
}
