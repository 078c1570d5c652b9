"""What people look at: tables, contours, pages and pictures of a comparison."""
