#include "cache_server/ctl/table.h"

#include <algorithm>
#include <utility>

#include "glog/logging.h"

namespace tessera::ctl {

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {
  for (const Column& column : columns_) {
    widths_.push_back(std::max(column.title.size(), column.least_width));
  }
}

void Table::AddRow(std::vector<std::string> cells) {
  CHECK_EQ(cells.size(), columns_.size());
  rows_.push_back(std::move(cells));
}

void Table::Print(std::ostream& out) {
  for (const std::vector<std::string>& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths_[i] = std::max(widths_[i], row[i].size());
  }
  if (!titles_printed_) {
    std::vector<std::string> titles;
    for (const Column& column : columns_) titles.push_back(column.title);
    PrintLine(titles, out);
    titles_printed_ = true;
  }
  for (const std::vector<std::string>& row : rows_) PrintLine(row, out);
  rows_.clear();
}

void Table::PrintLine(const std::vector<std::string>& cells, std::ostream& out) const {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string padding(widths_[i] - cells[i].size(), ' ');
    line += columns_[i].right ? padding + cells[i] : cells[i] + padding;
    line += "  ";
  }
  line.resize(line.find_last_not_of(' ') + 1);
  out << line << '\n';
}

}  // namespace tessera::ctl
