"""The bundle as others take it: one folder with the package inside, checked and published."""
