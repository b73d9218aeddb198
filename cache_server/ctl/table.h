// Aligned columns of text.
#ifndef TESSERA_CACHE_SERVER_CTL_TABLE_H_
#define TESSERA_CACHE_SERVER_CTL_TABLE_H_

#include <cstddef>
#include <ostream>
#include <string>
#include <vector>

namespace tessera::ctl {

struct Column {
  std::string title;
  bool right = false;  // numbers
  // Columns are this wide at least, so that pages that are printed one by one look as one table.
  size_t least_width = 0;
};

// Rows are printed, and forgotten, by Print: a table of any length needs the memory of one page.
class Table {
 public:
  explicit Table(std::vector<Column> columns);

  // As many cells as there are columns.
  void AddRow(std::vector<std::string> cells);

  // Prints the rows since the last call; the first time the titles, too, even without rows. A
  // column that once grew stays wide.
  void Print(std::ostream& out);

 private:
  void PrintLine(const std::vector<std::string>& cells, std::ostream& out) const;

  const std::vector<Column> columns_;
  std::vector<size_t> widths_;
  std::vector<std::vector<std::string>> rows_;
  bool titles_printed_ = false;
};

}  // namespace tessera::ctl

#endif  // TESSERA_CACHE_SERVER_CTL_TABLE_H_
